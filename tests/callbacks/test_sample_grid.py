"""SampleGrid: the same latents each time, a model left as it was, files for predictions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from PIL import Image

from callbacks import SampleGrid
from datamodules import DigitsDataModule
from lightning_modules import ImageClassifier, LatentConditionedGAN

QUIET = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}
TINY = {"image_size": 32, "latent_size": 4, "generator_width": 4, "critic_width": 4, "num_classes": 10}
pytestmark = pytest.mark.filterwarnings("ignore:Found .* module")


def trainer(folder, **options):
    settings = {"max_epochs": 2, "limit_train_batches": 2, "limit_val_batches": 1, "enable_checkpointing": False}
    return Trainer(default_root_dir=folder, **{**settings, **QUIET, **options})


def digits():
    return DigitsDataModule(image_size=32, train=100, batch_size=20, num_workers=0)


def test_sheets_show_conditions_and_the_same_latents(tmp_path):
    model = LatentConditionedGAN(condition="label", **TINY)
    run = trainer(tmp_path, callbacks=[SampleGrid(rows=5, columns=3)])
    run.fit(model, datamodule=digits())
    sheets = []
    for file in sorted((tmp_path / "samples").glob("*.npz")):
        with np.load(file, allow_pickle=False) as arrays:
            sheets.append(arrays["images"])
    assert [sheet.shape for sheet in sheets] == [(5, 4, 32, 32, 3)] * 2
    assert np.array_equal(sheets[0][:, 0], sheets[1][:, 0])
    assert not np.array_equal(sheets[0][:, 1:], sheets[1][:, 1:])  # two steps lie between
    run.validate(model, datamodule=digits(), verbose=False)
    with np.load(tmp_path / "samples" / "00000004.npz", allow_pickle=False) as arrays:
        assert np.array_equal(arrays["images"], sheets[1])
    rare = trainer(tmp_path / "rare", callbacks=[SampleGrid(rows=2, columns=2, every_n_epochs=5)])
    rare.validate(model, datamodule=digits(), verbose=False)
    assert (tmp_path / "rare" / "samples.png").is_file()  # what is asked for alone is drawn
    width, height = Image.open(tmp_path / "samples.png").size
    assert width > 300
    assert height > 300


def test_training_is_the_same_without_it(tmp_path):
    weights = []
    for callbacks in ([], [SampleGrid(2, 2)]):
        torch.manual_seed(0)
        model = LatentConditionedGAN(condition="label", **TINY)
        trainer(tmp_path, callbacks=callbacks).fit(model, datamodule=digits())
        weights.append(model.state_dict())
        assert model.training
    for name, value in weights[0].items():
        assert torch.equal(value, weights[1][name]), name


def test_predictions_get_a_file_each(tmp_path):
    model = LatentConditionedGAN(condition="label", **TINY)
    run = trainer(tmp_path, callbacks=[SampleGrid(columns=3)], limit_predict_batches=1)
    run.predict(model, datamodule=digits(), return_predictions=False)
    files = sorted((tmp_path / "samples").glob("*.png"))
    assert len(files) == 20
    assert Image.open(files[0]).size == (96, 32)


def test_mistakes_are_named(tmp_path):
    with pytest.raises(ValueError, match="rows=0, columns=8"):
        SampleGrid(rows=0)
    with pytest.raises(TypeError, match=r"SampleGrid needs ImageClassifier\.sample_sheet"):
        trainer(tmp_path, callbacks=[SampleGrid()]).validate(
            ImageClassifier("small_cnn", num_classes=10), datamodule=digits(), verbose=False
        )
