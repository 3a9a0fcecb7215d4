"""States of a module as rows of numbers, in files that are mapped into memory."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["SnapshotFolder", "States", "read_checkpoints"]

Array = NDArray[np.float64]
_INDEX, _PARAMETERS, _BUFFERS = "trajectory.json", "parameters.bin", "buffers.bin"


class States(NamedTuple):
    """Several states of one module."""

    parameters: Any
    """Shape ``(T, D)``; a memory map or a tensor."""
    buffers: Any
    """Shape ``(T, B)``, float64."""
    epochs: list[float]
    labels: list[str]


class SnapshotFolder:
    """A folder that grows by one row per snapshot.

    ``trajectory.json`` names the parameters and tells epoch and step of each row; ``parameters.bin`` holds the rows,
    ``buffers.bin`` the buffers (running statistics) as float64.

    Args:
        folder: where the files are.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def exists(self) -> bool:
        """Whether anything was recorded."""
        return (self.folder / _INDEX).is_file()

    def append(self, parameters: dict[str, Tensor], buffers: dict[str, Tensor], epoch: int, step: int) -> None:
        """Add a row; rows of the same or later steps, which an interrupted run may have left, are dropped.

        Raises:
            ValueError: if the parameters are not those of the rows before.
        """
        rows = _flat(parameters), _flat(buffers, np.float64)
        index: dict[str, Any] = {
            "parameters": {name: list(tensor.shape) for name, tensor in parameters.items()},
            "buffers": {name: list(tensor.shape) for name, tensor in buffers.items()},
            "dtype": rows[0].dtype.name,
            "snapshots": [],
        }
        if self.exists:
            before = self._index()
            if (before["parameters"], before["buffers"]) != (index["parameters"], index["buffers"]):
                raise ValueError(f"{self.folder} holds snapshots of another network; remove it or start a new run.")
            index["snapshots"] = [row for row in before["snapshots"] if row["step"] < step]
        self.folder.mkdir(parents=True, exist_ok=True)
        place = len(index["snapshots"])
        for name, row in zip((_PARAMETERS, _BUFFERS), rows, strict=True):
            file = self.folder / name
            with file.open("r+b" if file.exists() else "wb") as stream:
                stream.truncate(place * row.nbytes)
                stream.seek(place * row.nbytes)
                stream.write(row.tobytes())
        index["snapshots"].append({"epoch": epoch, "step": step})
        partial = self.folder / f"{_INDEX}.partial"
        partial.write_text(json.dumps(index), encoding="utf-8")
        os.replace(partial, self.folder / _INDEX)

    def read(self, parameters: dict[str, Tensor], buffers: dict[str, Tensor]) -> States:
        """All rows.

        Args:
            parameters: those of the module that the rows are for.
            buffers: likewise.

        Raises:
            FileNotFoundError: if nothing was recorded.
            ValueError: if the rows are of another network.
        """
        if not self.exists:
            raise FileNotFoundError(
                f"{self.folder} holds no trajectory: train with the callback TrajectoryRecorder, or name its folder."
            )
        index = self._index()
        for kind, tensors in (("parameters", parameters), ("buffers", buffers)):
            if index[kind] != {name: list(tensor.shape) for name, tensor in tensors.items()}:
                raise ValueError(f"{self.folder} holds snapshots whose {kind} are not those of this model.")
        count = len(index["snapshots"])
        size = sum(tensor.numel() for tensor in parameters.values())
        extra = sum(tensor.numel() for tensor in buffers.values())
        rows = np.memmap(self.folder / _PARAMETERS, dtype=index["dtype"], mode="r", shape=(count, size))
        statistics = np.fromfile(self.folder / _BUFFERS, dtype=np.float64, count=count * extra).reshape(count, extra)
        epochs = [float(row["epoch"]) for row in index["snapshots"]]
        return States(rows, statistics, epochs, [f"epoch {epoch:g}" for epoch in epochs])

    def last_step(self) -> int:
        """Step of the last row; -1 if there is none."""
        return int(self._index()["snapshots"][-1]["step"]) if self.exists else -1

    def _index(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads((self.folder / _INDEX).read_text(encoding="utf-8"))
        return content


def read_checkpoints(
    files: Sequence[str], parameters: dict[str, Tensor], buffers: dict[str, Tensor], player: str | None = None
) -> States:
    """States of checkpoints of one module.

    Args:
        files: checkpoints as Lightning writes them.
        parameters: those of the module.
        buffers: likewise.
        player: submodule whose names these are.

    Returns:
        One row per file; parameters in the dtype of the module's.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if a checkpoint is of another network.
    """
    rows: list[NDArray[Any]] = []
    statistics: list[NDArray[Any]] = []
    epochs: list[float] = []
    for file in files:
        if not Path(file).is_file():
            raise FileNotFoundError(f"checkpoints: there is no {file!r}.")
        content = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        prefix = f"{player}." if player else ""
        state = {
            name.replace("_orig_mod.", "").removeprefix(prefix): tensor
            for name, tensor in content.get("state_dict", content).items()
            if name.replace("_orig_mod.", "").startswith(prefix)
        }
        for name, tensor in (parameters | buffers).items():
            if name not in state or state[name].shape != tensor.shape:
                raise ValueError(f"{file} is a checkpoint of another network: {name} is missing or has another shape.")
        rows.append(_flat({name: state[name] for name in parameters}))
        statistics.append(_flat({name: state[name] for name in buffers}, np.float64))
        epochs.append(float(content.get("epoch", len(epochs))))
    labels = [Path(file).stem for file in files]
    if len(set(labels)) < len(labels):
        labels = [f"{Path(file).parent.parent.name}/{Path(file).stem}" for file in files]
    return States(np.stack(rows), np.stack(statistics), epochs, labels)


def _flat(tensors: dict[str, Tensor], dtype: Any = None) -> NDArray[Any]:
    """Tensors one after the other; float64 stays so, all else becomes float32 unless a dtype is given."""
    double = any(tensor.dtype == torch.float64 for tensor in tensors.values())
    wanted = dtype or (np.float64 if double else np.float32)
    parts = [tensor.detach().cpu().double().numpy().ravel().astype(wanted) for tensor in tensors.values()]
    return np.concatenate(parts) if parts else np.empty(0, wanted)
