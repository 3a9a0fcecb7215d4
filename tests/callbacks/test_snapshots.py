"""Snapshots on disk: rows as written, resumed runs, and refusals."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from callbacks.snapshots import SnapshotFolder, read_checkpoints


def state(value: float) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    parameters = {"a": torch.full((2, 3), value), "b": torch.full((1,), -value, dtype=torch.bfloat16)}
    return parameters, {"mean": torch.full((2,), 10 * value), "count": torch.tensor(int(value))}


def test_rows_come_back_and_are_mapped(tmp_path):
    folder = SnapshotFolder(tmp_path / "trajectory")
    assert not folder.exists
    assert folder.last_step() == -1
    for epoch in range(3):
        folder.append(*state(epoch), epoch=epoch, step=5 * epoch)
    states = folder.read(*state(0))
    assert isinstance(states.parameters, np.memmap)
    np.testing.assert_array_equal(states.parameters, [[t] * 6 + [-t] for t in range(3)])
    np.testing.assert_array_equal(states.buffers, [[10 * t, 10 * t, t] for t in range(3)])
    assert states.epochs == [0, 1, 2]
    assert states.labels == ["epoch 0", "epoch 1", "epoch 2"]


def test_a_resumed_run_replaces_what_came_later(tmp_path):
    folder = SnapshotFolder(tmp_path)
    for epoch in range(4):
        folder.append(*state(epoch), epoch=epoch, step=epoch)
    folder.append(*state(9), epoch=2, step=2)
    states = folder.read(*state(0))
    np.testing.assert_array_equal(states.parameters[:, 0], [0, 1, 9])
    assert folder.last_step() == 2


def test_double_precision_is_kept(tmp_path):
    folder = SnapshotFolder(tmp_path)
    value = torch.tensor([1 / 3], dtype=torch.float64)
    folder.append({"w": value}, {}, 0, 0)
    assert folder.read({"w": value}, {}).parameters[0, 0] == 1 / 3


def test_other_networks_are_refused(tmp_path):
    folder = SnapshotFolder(tmp_path)
    with pytest.raises(FileNotFoundError, match="TrajectoryRecorder"):
        folder.read(*state(0))
    folder.append(*state(0), epoch=0, step=0)
    with pytest.raises(ValueError, match="another network"):
        folder.append({"a": torch.ones(2)}, {}, 1, 1)
    with pytest.raises(ValueError, match="parameters are not those"):
        folder.read({"a": torch.ones(2)}, {})
    assert json.loads((tmp_path / "trajectory.json").read_text())["snapshots"] == [{"epoch": 0, "step": 0}]


def test_checkpoints_of_players_and_compiled_networks(tmp_path):
    parameters, buffers = state(3)
    saved = {f"g._orig_mod.{name}": tensor for name, tensor in (parameters | buffers).items()}
    for folder in ("one", "two"):
        (tmp_path / folder / "checkpoints").mkdir(parents=True)
        torch.save({"state_dict": saved, "epoch": 7}, tmp_path / folder / "checkpoints" / "last.ckpt")
    files = [str(tmp_path / folder / "checkpoints" / "last.ckpt") for folder in ("one", "two")]
    states = read_checkpoints(files, parameters, buffers, "g")
    np.testing.assert_array_equal(states.parameters, [[3] * 6 + [-3]] * 2)
    assert states.labels == ["one/last", "two/last"]
    assert states.epochs == [7, 7]
    with pytest.raises(ValueError, match="another network: a is missing"):
        read_checkpoints(files, parameters, buffers)
    with pytest.raises(FileNotFoundError, match=r"none\.ckpt"):
        read_checkpoints(["none.ckpt"], parameters, buffers)
