"""What a trial tells its worker."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from lightning.pytorch import Trainer
from lightning.pytorch.demos.boring_classes import BoringModel

from tuner.trial_channel import CHANNEL
from tuner.trial_report import TrialReport


class Logging(BoringModel):
    def validation_step(self, batch, batch_idx):
        self.log("val/loss", float(self.trainer.current_epoch + 1))

    def training_step(self, batch, batch_idx):
        self.log("train/loss", float(self.trainer.current_epoch), on_epoch=True)
        return super().training_step(batch, batch_idx)


def fit(monitor, epochs=4, stop_after=None):
    report = TrialReport(str(Path.cwd()), monitor)
    if stop_after is not None:
        Path("stop").touch()
    trainer = Trainer(
        max_epochs=epochs,
        callbacks=[report],
        limit_train_batches=2,
        limit_val_batches=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
    )
    trainer.fit(Logging())
    return [json.loads(line) for line in Path("reports.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(("monitor", "first"), [("val/loss", 1.0), ("train/loss", 0.0)])
def test_each_epoch_is_reported_once(monitor, first):
    assert fit(monitor) == [[epoch, first + epoch] for epoch in range(4)]


def test_a_fit_ends_when_the_worker_asks_for_it():
    assert fit("val/loss", stop_after=0) == [[0, 1.0]]


def test_a_metric_that_is_never_logged_is_refused_with_those_that_are():
    with pytest.raises(ValueError, match=r"tune\.monitor='accuracy' was not logged; there are: .*val/loss"):
        fit("accuracy", epochs=1)


def test_the_worker_says_where_and_what(monkeypatch):
    monkeypatch.setenv(CHANNEL, json.dumps({"folder": "f", "monitor": "m"}))
    report = TrialReport.from_environment()
    assert (report.folder, report.monitor) == (Path("f"), "m")
