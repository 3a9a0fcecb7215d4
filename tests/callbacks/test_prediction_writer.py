"""Table, contact sheet and attribution sheet of a predict run."""

from __future__ import annotations

import os
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch.utils.data import DataLoader

import callbacks.prediction_writer
from callbacks import PredictionWriter
from callbacks.outputs import log_table


class Brightness(LightningModule):
    """Scores an image by its brightness; its map is the first channel."""

    predict_attribution = False

    def __init__(self):
        super().__init__()
        self.mapped = 0

    def predict_step(self, batch, batch_idx):
        score = batch["image"].mean(dim=(1, 2, 3)) - 0.5
        band = {"unsure_below": torch.full_like(score, -0.1), "unsure_above": torch.full_like(score, 0.1)}
        verdict = torch.where(score < -0.1, 0, torch.where(score > 0.1, 1, 2))
        names = {"path": batch["path"], "verdict_names": ("real", "fake", "unsure")}
        return {"score": score, "verdict": verdict, "both": torch.stack([score, -score], dim=1), **band, **names}


class Mapped(Brightness):
    predict_attribution = True

    def attribution(self, x):
        self.mapped += len(x)
        return x[:, 0]


def images(count):
    """Each with a brightness of its own, from 0 to 1."""
    levels = torch.linspace(0, 1, count)
    ramp = torch.linspace(-0.01, 0.01, 8).expand(3, 8, 8)
    return [
        {"image": (level + ramp).clamp(0, 1), "path": f"{index:03d}.png"} for index, level in enumerate(levels.tolist())
    ]


@pytest.fixture
def figures(monkeypatch):
    """Figures that a run draws, by name."""
    drawn = {}
    draw = callbacks.prediction_writer.log_figure

    def keep(trainer, directory, name, figure):
        drawn[name] = figure
        return draw(trainer, directory, name, figure)

    monkeypatch.setattr(callbacks.prediction_writer, "log_figure", keep)
    return drawn


def predict(tmp_path, module, writer, count=40):
    run = Trainer(
        accelerator="cpu",
        devices=1,
        callbacks=[writer],
        default_root_dir=tmp_path,
        enable_progress_bar=False,
        enable_model_summary=False,
        logger=False,
    )
    run.predict(module, DataLoader(dataset=images(count), batch_size=8))
    return tmp_path


def test_table_and_sheet(tmp_path, figures):
    directory = predict(tmp_path, Brightness(), PredictionWriter(sheet=10))
    table = pd.read_csv(next(directory.rglob("predictions.csv")), dtype={"path": str})
    assert table["path"].tolist() == [f"{index:03d}.png" for index in range(40)]
    np.testing.assert_allclose(table["score"], np.linspace(0, 1, 40) - 0.5, atol=0.01)
    assert table["verdict"].tolist() == ["real"] * 16 + ["unsure"] * 8 + ["fake"] * 16
    np.testing.assert_allclose(table["both_1"], -table["score"])
    assert figures.keys() == {"predictions"}
    assert not list(directory.rglob("attributions.png"))
    names = {axes.get_xlabel() for axes in figures["predictions"].axes if axes.images}
    assert names == {f"{index:03d}.png" for index in range(15, 25)}  # nearest to the middle of the band


def test_attributions_are_laid_over_the_pictures_of_the_sheet(tmp_path, figures):
    writer = PredictionWriter(sheet=10)
    directory = predict(tmp_path, Mapped(), writer)
    assert next(directory.rglob("attributions.png")).stat().st_size > 5000
    assert "hint, not evidence" in figures["attributions"].get_suptitle()
    assert figures["predictions"].get_suptitle() == ""
    shown = {axes.get_xlabel(): axes for axes in figures["attributions"].axes if axes.images}
    by_path = {sample["path"]: sample["image"] for sample in images(40)}
    assert len(shown) == 10
    for path, axes in shown.items():
        picture, overlay = axes.images
        np.testing.assert_allclose(picture.get_array(), by_path[path].permute(1, 2, 0) * 255, atol=0.51)
        np.testing.assert_allclose(overlay.get_array(), by_path[path][0], atol=0.51 / 255)


def test_only_pictures_of_the_sheet_are_kept_and_mapped(tmp_path):
    module, writer = Mapped(), PredictionWriter(sheet=3)
    predict(tmp_path, module, writer, count=80)
    assert len(writer._pictures) == 3
    assert writer._maps.keys() == writer._pictures.keys()
    assert module.mapped <= 3 * 10  # at most the sheet per batch, of 80 images
    assert {array.dtype for array in writer._maps.values()} == {np.dtype("uint8")}


def test_no_sheet_draws_and_maps_nothing(tmp_path, figures):
    module = Mapped()
    directory = predict(tmp_path, module, PredictionWriter(sheet=0))
    assert len(pd.read_csv(next(directory.rglob("predictions.csv")))) == 40
    assert not figures
    assert module.mapped == 0


def test_modules_that_lack_something_are_told(tmp_path):
    class Promises(Brightness):
        predict_attribution = True

    class NoPath(Brightness):
        def predict_step(self, batch, batch_idx):
            return {"score": batch["image"].mean(dim=(1, 2, 3))}

    with pytest.raises(TypeError, match=r"needs Promises.attribution\(x\) to draw maps"):
        predict(tmp_path, Promises(), PredictionWriter())
    with pytest.raises(TypeError, match=r"needs NoPath.predict_step to return a `path`"):
        predict(tmp_path, NoPath(), PredictionWriter())


def test_names_that_are_not_utf8_are_written_as_they_are(tmp_path):
    name = os.fsdecode(b"caf\xe9.png")
    log_table(SimpleNamespace(loggers=[]), tmp_path, "table", pd.DataFrame({"path": [name]}), index=False)
    assert (tmp_path / "table.csv").read_bytes() == b"path\ncaf\xe9.png\n"
