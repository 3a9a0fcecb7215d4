"""What the recorder writes is what the optimiser did."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from landscape_modules import Classifier, TwoPlayers, loaders, trainer
from lightning.pytorch import Callback

from callbacks import TrajectoryRecorder


class Copies(Callback):
    """Parameters after every epoch, kept independently."""

    def __init__(self) -> None:
        self.rows: list[np.ndarray] = []

    def on_train_start(self, trainer, pl_module) -> None:
        self.rows.append(torch.nn.utils.parameters_to_vector(pl_module.parameters()).detach().numpy().copy())

    def on_train_epoch_end(self, trainer, pl_module) -> None:
        self.on_train_start(trainer, pl_module)


def test_one_row_at_the_start_and_after_every_epoch(tmp_path):
    recorder, copies, model = TrajectoryRecorder(), Copies(), Classifier()
    trainer(tmp_path, recorder, copies, epochs=3).fit(model, **loaders())
    states = recorder.states(model)
    np.testing.assert_array_equal(states.parameters, copies.rows)
    assert states.epochs == [0, 1, 2, 3]
    count = list(dict(model.named_buffers())).index("network.1.num_batches_tracked")
    assert count == 2
    np.testing.assert_array_equal(states.buffers[:, -1], [0, 4, 8, 12])


def test_intervals_and_the_last_epoch(tmp_path):
    recorder, model = TrajectoryRecorder(every_n_epochs=2), Classifier()
    trainer(tmp_path, recorder, epochs=5).fit(model, **loaders())
    assert recorder.states(model).epochs == [0, 2, 4, 5]
    recorder = TrajectoryRecorder(every_n_steps=3)
    trainer(tmp_path / "steps", recorder, epochs=2).fit(model, **loaders())
    assert len(recorder.states(model).epochs) == 4  # steps 0, 3, 6 and the last, 8
    with pytest.raises(ValueError, match="every_n_steps=0"):
        TrajectoryRecorder(every_n_steps=0)


def test_a_resumed_run_has_the_path_of_an_uninterrupted_one(tmp_path):
    from lightning.pytorch.callbacks import ModelCheckpoint

    paths = []
    for name, parts in (("whole", (4,)), ("parts", (2, 4))):
        checkpoint = None
        for last in parts:
            recorder, model = TrajectoryRecorder(), Classifier()
            keep = ModelCheckpoint(dirpath=tmp_path / name, filename="last", enable_version_counter=False)
            run = trainer(tmp_path / name, recorder, keep, epochs=last, enable_checkpointing=True)
            run.fit(model, train_dataloaders=loaders()["val_dataloaders"], ckpt_path=checkpoint, weights_only=True)
            checkpoint = str(tmp_path / name / "last.ckpt")
        states = recorder.states(model)
        assert states.epochs == [0, 1, 2, 3, 4]
        paths.append(np.array(states.parameters[0]))  # dropout draws differ after a resume
    np.testing.assert_array_equal(*paths)


def test_players_have_paths_of_their_own(tmp_path):
    recorders = [TrajectoryRecorder(player=player) for player in ("generator", "critic")]
    model = TwoPlayers()
    trainer(tmp_path, *recorders).fit(model, **loaders())
    for recorder, part in zip(recorders, (model.generator, model.critic), strict=True):
        states = recorder.states(model)
        np.testing.assert_array_equal(states.parameters[-1], part.weight.detach().numpy().ravel())
    assert {path.name for path in tmp_path.iterdir()} >= {"trajectory_generator", "trajectory_critic"}


def test_nothing_is_recorded_in_a_fast_dev_run_or_before_a_fit(tmp_path):
    recorder, model = TrajectoryRecorder(), Classifier()
    trainer(tmp_path, recorder, fast_dev_run=True).fit(model, **loaders())
    assert not (tmp_path / "trajectory").exists()
    with pytest.raises(RuntimeError, match="fit first"):
        TrajectoryRecorder().states(model)
