"""SpectrumDetector: fitted in one epoch, stored in plain checkpoints, from images and from ready-made features."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ROOT, noise, write_image
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from sklearn.svm import SVC

from datamodules import FeatureTableDataModule, RealFakeDataModule, SpectrumDataModule
from functional.spectrum import RadialSpectrum, luma, radial_log_spectrum
from lightning_modules import SpectrumDetector
from lightning_modules.fitted_detector import TrainingFeatures

QUIET = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}


def write_table(path: Path, count: int = 90, seed: int = 0) -> Path:
    """Two overlapping clouds of 8 features."""
    rng = np.random.default_rng(seed)
    is_fake = np.arange(count) % 2 == 1
    np.savez(path, features=rng.normal(size=(count, 8)) * 0.3 + 0.8 + 0.3 * is_fake[:, None], is_fake=is_fake)
    return path


def test_fit_equals_scikit_learn_on_the_training_rows(tmp_path):
    data = FeatureTableDataModule(str(write_table(tmp_path / "t.npz")), batch_size=7)
    model = SpectrumDetector("svm_rbf")
    trainer = Trainer(max_epochs=5, enable_checkpointing=False, **QUIET)
    trainer.fit(model, datamodule=data)
    assert trainer.current_epoch == 1  # further epochs would fit the same
    train, test = data.train_set, data.test_sets["t"]
    seen = TrainingFeatures()  # the solver stops a little apart for another order of the rows
    seen.update(train.features, torch.tensor(train.labels), train.paths)
    features, labels = seen.compute()
    machine = SVC(C=6.37, gamma=0.86).fit(features.numpy(), labels.numpy())
    logits = model(test.features)
    np.testing.assert_allclose(
        model.score(logits).numpy(), machine.decision_function(test.features.numpy()), rtol=0, atol=1e-6
    )
    assert np.isfinite(float(trainer.callback_metrics["train/loss"]))
    assert {"val/auroc", "val/loss", "val/temperature"} <= set(trainer.callback_metrics)
    accuracy = trainer.test(model, datamodule=data, verbose=False)[0]["test/accuracy"]
    assert accuracy == pytest.approx(machine.score(test.features.numpy(), test.labels), abs=1e-6)


@pytest.mark.parametrize("head", ["svm_linear", "svm_poly", "logistic_regression", "kmeans", "mlp"])
def test_every_head_goes_through_fit_checkpoint_and_test(head, tmp_path):
    data = FeatureTableDataModule(str(write_table(tmp_path / "t.npz")), batch_size=16)
    optimizer = lambda parameters: torch.optim.AdamW(parameters, lr=0.02)  # noqa: E731
    model = SpectrumDetector(head, RadialSpectrum(features=8), optimizer=optimizer, hidden=8)
    torch.manual_seed(0)
    trainer = Trainer(max_epochs=20, default_root_dir=tmp_path, num_sanity_val_steps=2, **QUIET)
    trainer.fit(model, datamodule=data)
    results = trainer.test(model, datamodule=data, verbose=False)[0]
    assert results["test/accuracy"] > 0.7
    assert results["test/out_of_range"] < 0.5
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    loaded = SpectrumDetector.load_from_checkpoint(tmp_path / "model.ckpt", weights_only=True)
    assert loaded.spectrum == model.spectrum
    features = data.test_sets["t"].features
    model.eval()
    torch.testing.assert_close(loaded.eval()(features), model(features), rtol=0, atol=0)
    torch.testing.assert_close(loaded.range.excess(features), model.range.excess(features), rtol=0, atol=0)
    assert float(loaded.calibration.temperature) == float(model.calibration.temperature)


@pytest.mark.parametrize("precision", ["bf16-true", "bf16-mixed"])
def test_precision_of_the_trainer_does_not_touch_features_or_head(precision, tmp_path):
    data = FeatureTableDataModule(str(write_table(tmp_path / "t.npz")))
    scores = []
    for chosen in ("32-true", precision):
        model = SpectrumDetector("svm_rbf")
        Trainer(max_epochs=1, enable_checkpointing=False, precision=chosen, **QUIET).fit(model, datamodule=data)
        scores.append(model.score(model(data.test_sets["t"].features)))
    torch.testing.assert_close(scores[0], scores[1], rtol=0, atol=0)


def test_images_are_turned_into_spectra_on_the_device(real_fake_root):
    data = RealFakeDataModule(root=str(real_fake_root), image_size=32, crop="center", batch_size=15, num_workers=0)
    model = SpectrumDetector("svm_linear", RadialSpectrum(features=20))
    with pytest.warns(UserWarning, match="so 11 images per process are not fitted on"):
        Trainer(max_epochs=1, enable_checkpointing=False, **QUIET).fit(model, datamodule=data)
    images = torch.rand(3, 3, 32, 32)
    torch.testing.assert_close(model.embed(images), radial_log_spectrum(luma(images).double(), 20))
    torch.testing.assert_close(model(images), model(model.embed(images)))
    result = Trainer(**QUIET).test(model, datamodule=data, verbose=False)[0]
    assert result["test/auroc"] == 1


def test_twenty_images_do(tmp_path):
    """Up-sampled against native 1/f pictures, 20 for training: the up-sampling shows in the spectrum."""
    rng = np.random.default_rng(0)
    for index in range(60):
        side = 64 if index % 2 == 0 else 32
        frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.fftfreq(side))
        frequency[0, 0] = 1
        field = np.fft.ifft2(np.fft.fft2(rng.normal(size=(side, side))) / frequency).real
        grey = (field / field.std() * 40 + 128).clip(0, 255).astype(np.uint8)
        if side == 32:
            grey = grey.repeat(2, 0).repeat(2, 1)
        split = "train" if index < 20 else "val" if index < 32 else "test"
        label = "real" if side == 64 else "fake"
        write_image(tmp_path / "data" / split / label / f"{index}.png", np.stack([grey] * 3, axis=-1))
    for head in ("svm_rbf", "logistic_regression"):
        data = SpectrumDataModule(root=str(tmp_path / "data"), num_workers=0)
        model = SpectrumDetector(head)
        trainer = Trainer(max_epochs=1, enable_checkpointing=False, **QUIET)
        trainer.fit(model, datamodule=data)
        assert len(data.train_set) == 20
        assert trainer.test(model, datamodule=data, verbose=False)[0]["test/accuracy"] == 1


def test_images_unlike_all_of_training_are_unsure(tmp_path, real_fake_root):
    settings = RadialSpectrum(features=20)
    data = SpectrumDataModule(settings, root=str(real_fake_root), predict_root=str(tmp_path / "new"), num_workers=0)
    write_image(tmp_path / "new" / "flat.png", np.full((40, 48, 3), 128, np.uint8))
    known = next((real_fake_root / "fake").glob("*.png"))
    (tmp_path / "new" / "known.png").write_bytes(known.read_bytes())
    model = SpectrumDetector("svm_linear")
    trainer = Trainer(max_epochs=1, enable_checkpointing=False, **QUIET)
    trainer.fit(model, datamodule=data)
    with pytest.warns(UserWarning, match=r"spectra of 50\.0 % of the images lie outside the range"):
        (result,) = trainer.predict(model, datamodule=data)
    columns = (result["path"], result["out_of_range"].tolist(), result["verdict"].tolist())
    assert set(zip(*columns, strict=True)) == {("flat.png", 1, 2), ("known.png", 0, 1)}


def test_command_line_from_fit_to_verdicts(cli, real_fake_root, tmp_path):
    common = ["--model=SpectrumDetector", "--model.head=svm_linear", "--data=SpectrumDataModule"]
    common += [f"--data.root={real_fake_root}", "--data.num_workers=0", "--data.spectrum.features=20"]
    common += ["--trainer.enable_progress_bar=false"]
    common += ["--experiment=spectra", "--trainer.max_epochs=1"]
    fitted = cli("fit", *common)
    assert fitted.trainer.global_step == len(fitted.datamodule.train_dataloader())
    loaded = SpectrumDetector.load_from_checkpoint(
        fitted.run_directory / "checkpoints" / "best.ckpt", weights_only=True
    )
    assert loaded.backbone.name == "svm_linear"
    assert torch.equal(loaded.backbone.rows, fitted.model.backbone.rows)
    tested = cli("test", *common)
    assert float(tested.trainer.callback_metrics["test/auroc"]) == 1
    for image in real_fake_root.glob("*/0[0-4].png"):
        (tmp_path / "new" / image.parent.name).mkdir(parents=True, exist_ok=True)
        (tmp_path / "new" / image.parent.name / image.name).write_bytes(image.read_bytes())
    cli("predict", *common, f"--data.predict_root={tmp_path / 'new'}")
    (table,) = tmp_path.glob("runs/spectra/*-predict/predictions.csv")
    frame = pd.read_csv(table)
    assert len(frame) == 10
    assert {"probability", "score", "verdict", "unsure_below", "unsure_above", "out_of_range"} <= set(frame.columns)
    truth = frame["path"].str.split("/").str[0]
    decided = frame["verdict"] != "unsure"  # eight validation images leave a wide band
    assert (frame["verdict"] == truth)[decided].all()
    assert decided.mean() > 0.5
    assert ((frame["score"] > 0) == (truth == "fake")).all()
    assert table.with_suffix(".png").is_file()


def test_features_are_gathered_once_and_in_an_order_of_their_own():
    seen = TrainingFeatures()
    x, y, names = torch.arange(12.0).view(6, 2).double(), torch.tensor([0, 1, 0, 1, 0, 1]), list("abcdef")
    seen.update(x, y, names)
    whole = seen.compute()
    other = TrainingFeatures()
    for part in ([5, 2], [0, 5, 1], [4, 3]):  # another order, and one image twice
        other.update(x[part], y[part], [names[index] for index in part])
    torch.testing.assert_close(other.compute()[0], whole[0], rtol=0, atol=0)
    torch.testing.assert_close(other.compute()[1], whole[1], rtol=0, atol=0)
    assert whole[0].dtype == torch.float64


def test_a_run_resumed_within_the_epoch_is_refused(tmp_path):
    data = FeatureTableDataModule(str(write_table(tmp_path / "t.npz")), batch_size=16)
    keep = ModelCheckpoint(tmp_path, filename="middle", every_n_train_steps=2, save_top_k=1, monitor="step", mode="min")
    Trainer(max_epochs=1, callbacks=[keep], **QUIET).fit(SpectrumDetector(), datamodule=data)
    with pytest.raises(RuntimeError, match="Only 2 of 4 training batches were seen"):
        Trainer(max_epochs=1, enable_checkpointing=False, **QUIET).fit(
            SpectrumDetector(), datamodule=data, ckpt_path=tmp_path / "middle.ckpt", weights_only=True
        )


def test_refusals():
    with pytest.raises(ValueError, match=r"model\.head='tree' is not one of svm_rbf"):
        SpectrumDetector("tree")
    with pytest.raises(ValueError, match=r"model\.spectrum\.features is needed"):
        SpectrumDetector("mlp", RadialSpectrum())
    assert SpectrumDetector("mlp", RadialSpectrum(), image_size=128).backbone.features == 88
    with pytest.raises(RuntimeError, match="not fitted yet"):
        SpectrumDetector()(torch.rand(2, 3, 32, 32))


@pytest.mark.slow
def test_two_processes_fit_what_one_fits(cli, tmp_path):
    rng = np.random.default_rng(0)
    for label, strength in (("real", 60), ("fake", 40)):
        for index in range(25):
            write_image(tmp_path / "data" / label / f"{index}.png", noise(rng, 32, 32, strength))
    common = ["--model=SpectrumDetector", "--data=SpectrumDataModule", f"--data.root={tmp_path / 'data'}"]
    common += ["--data.num_workers=0", "--data.batch_size=5", "--trainer.max_epochs=1"]
    cli("fit", *common, "--experiment=devices1")
    command = [sys.executable, str(ROOT / "train.py"), "fit", *common, "--experiment=devices2"]
    command += ["--trainer.accelerator=cpu", "--trainer.devices=2", "--trainer.strategy=ddp"]
    done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    states = []
    for devices in (1, 2):
        (file,) = tmp_path.glob(f"runs/devices{devices}/*/checkpoints/last.ckpt")
        states.append(torch.load(file, weights_only=True)["state_dict"])
    assert states[0].keys() == states[1].keys()
    for key, value in states[0].items():
        torch.testing.assert_close(states[1][key], value, msg=key)
