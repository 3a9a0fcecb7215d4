"""Losses of many points, shared by processes, kept in a file, and never computed twice."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Trainer
from numpy.typing import NDArray
from torch import Tensor
from tqdm.auto import tqdm

from callbacks.analysis import StillModule
from callbacks.outputs import gather_objects
from callbacks.snapshots import States
from functional.landscape import grid_losses
from functional.parameter_vectors import flatten

__all__ = ["point_losses", "state_losses"]

Array = NDArray[np.float64]


def point_losses(
    trainer: Trainer, still: StillModule, directions: Tensor, coordinates: Array, folder: Path | None, title: str
) -> Array:
    """Loss at points of a line or plane through the module's present parameters.

    Points are dealt out over processes, every rank the same number up to one, and each is computed from the centre:
    one process and several give the same bits on a CPU. A file in ``folder``, named by a fingerprint of parameters,
    directions, points and data, holds what is done, so that an interrupted grid goes on where it stopped.

    Args:
        trainer: the running trainer.
        still: the module held still.
        directions: shape ``(k, D)``.
        coordinates: shape ``(P, k)``.
        folder: of the file; none is kept without it.
        title: beside the progress bar.

    Returns:
        Shape ``(P,)``, the same on every process.
    """
    file = None
    if folder is not None:
        file = folder / f"grid-{_fingerprint(still, directions, coordinates)}.npy"
        if trainer.is_global_zero and not file.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            np.save(file, np.full(len(coordinates), np.nan))
        trainer.strategy.barrier()
    values = np.full(len(coordinates), np.nan)
    shared = None
    if file is not None and file.is_file():  # on another machine there may be none
        shared = np.lib.format.open_memmap(file, mode="r+")
        values[:] = shared
    values = trainer.strategy.broadcast(values)  # all must agree on what is missing
    missing = np.flatnonzero(np.isnan(values))
    mine = missing[still.rank :: still.world_size].tolist()
    bar = trainer.progress_bar_callback
    steps = grid_losses(still.loss, still.parameters, directions, coordinates, mine)
    with closing(steps), tqdm(total=len(mine), desc=title, leave=False, disable=bar is None or still.rank > 0) as shown:
        for index, value in steps:
            values[index] = value
            if shared is not None:
                shared[index] = value
                shared.flush()
            shown.update()
    for indices, found in gather_objects(trainer, (mine, values[mine])):
        values[indices] = found
    return values


def state_losses(trainer: Trainer, still: StillModule, states: States) -> Array:
    """True loss of each state with its own running statistics, dealt out over processes, shape ``(T,)``."""
    mine = list(range(still.rank, len(states.epochs), still.world_size))
    kept = flatten(still.parameters), _as_numbers(still.buffers)
    values = np.full(len(states.epochs), np.nan)
    try:
        for index in mine:
            still.write(states.parameters[index], states.buffers[index])
            values[index] = still.loss()
    finally:
        still.write(kept[0].cpu(), kept[1])
    for indices, found in gather_objects(trainer, (mine, values[mine])):
        values[indices] = found
    return values


def _as_numbers(tensors: Sequence[Tensor]) -> Tensor:
    parts = [tensor.detach().cpu().double().flatten() for tensor in tensors]
    return torch.cat(parts) if parts else torch.empty(0)


def _fingerprint(still: StillModule, directions: Tensor, coordinates: Array) -> str:
    """Hash of all that the losses depend on, the code of the loss apart."""
    digest = hashlib.blake2b(digest_size=8)
    for item in (flatten(still.parameters), _as_numbers(still.buffers), directions, coordinates, still.batches):
        _add(digest, item)
    _add(digest, still.bn_mode)
    return digest.hexdigest()


def _add(digest: Any, item: Any) -> None:
    if isinstance(item, Tensor):
        _add(digest, item.detach().cpu().contiguous().numpy())
    elif isinstance(item, np.ndarray):
        digest.update(str((item.dtype, item.shape)).encode())
        digest.update(np.ascontiguousarray(item).data)
    elif isinstance(item, dict):
        for key in sorted(item):
            _add(digest, key)
            _add(digest, item[key])
    elif isinstance(item, list | tuple):
        for part in item:
            _add(digest, part)
    else:
        digest.update(repr(item).encode())
