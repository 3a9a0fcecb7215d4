"""The robustness study end to end on a drawn data set: nets are trained, measured once, and compared."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch

from callbacks import AdversarialTraining
from lightning_modules import ImageClassifier
from studies import robustness, robustness_zoo
from train import main

RECIPES = ["none", "mixup", "adversarial"]
SMALL = [
    "--model=ImageClassifier",
    "--model.backbone=cifar_resnet8",
    "--data=Cifar10DataModule",
    "--data.num_workers=0",
    "--data.batch_size=16",
    "--data.augmentation={flip: 0.0}",
    "--trainer.accelerator=cpu",
    "--trainer.devices=1",
]


@pytest.fixture
def data(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {}
    for part, count in (("train", 40), ("test", 60)):
        labels = np.arange(count) % 10
        images = rng.integers(0, 60, (count, 32, 32, 3)) + 18 * labels[:, None, None, None]
        arrays |= {f"x_{part}": images.astype(np.uint8), f"y_{part}": labels.astype(np.uint8)}
    np.savez(tmp_path / "set.npz", **arrays)
    return [*SMALL, f"--data.file={tmp_path / 'set.npz'}"]


@pytest.mark.parametrize("recipe", list(robustness_zoo.RECIPES))
def test_every_recipe_is_understood(recipe, data):
    built = main([*data, *robustness_zoo.RECIPES[recipe], "--trainer.fast_dev_run=true"], run=False)
    parts = [built.model.mixer, built.model.label_smoothing or None, *built.datamodule.train_pipeline]
    parts += [part for part in built.trainer.callbacks if isinstance(part, AdversarialTraining)]
    assert any(part is not None for part in parts) == (recipe != "none")


def test_nets_are_trained_once_measured_once_and_compared(data, tmp_path):
    epoch = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=1", "--trainer.enable_progress_bar=false"]
    arguments = [*data, *epoch, "--into", str(tmp_path / "zoo"), "--widths", "2", "--recipes", *RECIPES]
    trained = robustness_zoo.run(arguments)
    assert list(trained) == [f"w2_{recipe}" for recipe in RECIPES]
    stamps = {name: path.stat().st_mtime_ns for name, path in trained.items()}
    again = robustness_zoo.run(arguments)
    assert {name: path.stat().st_mtime_ns for name, path in again.items()} == stamps  # nothing is trained twice
    states = [torch.load(path, weights_only=True)["state_dict"] for path in trained.values()]
    first = "backbone.conv1.weight"
    assert all(not torch.equal(states[0][first], other[first]) for other in states[1:])  # each recipe does something

    weights = tmp_path / "net.pt"
    net = ImageClassifier("cifar_resnet8", 10, 32)
    torch.save(net.backbone.state_dict(), weights)
    out = tmp_path / "out"
    study = [*data, "--zoo", str(tmp_path / "zoo"), "--nets", f"cifar_resnet8@{weights}", "--images", "20"]
    found = robustness.run([*study, "--out", str(out), "--resamples", "2"])
    table = pd.read_csv(out / "nets.csv")
    assert len(table) == 4
    assert table["mce"].between(0, 1).all()
    assert {"overlap", "kmeans_accuracy"} <= set(found["indicator"])
    assert found["r2"].between(0, 1).all()
    assert (out / "associations.png").stat().st_size > 10_000
    stored = json.loads((out / "nets" / "w2_none.json").read_text())
    mean = np.mean([np.mean(errors) for errors in stored["errors"].values()])
    row = table[table["net"] == "w2_none"].iloc[0]
    assert row["mce"] == pytest.approx(mean)
    assert row["relative_mce"] == pytest.approx(mean - stored["clean"])
    with pytest.raises(SystemExit, match="other settings"):
        robustness.run([*study[:-1], "30", "--out", str(out)])


def test_a_net_is_its_own_baseline():
    found = {"clean": 0.1, "errors": {}, "indicators": {"overlap": 0.2}}
    found["errors"] = {name: [0.2, 0.3] for name in robustness.BENCHMARK_CORRUPTIONS}
    table = robustness.summarise({"a": found, "b": {**found, "clean": 0.2}}, baseline="a")
    assert table["mce"].tolist() == pytest.approx([1, 1])
    assert table["relative_mce"].tolist() == pytest.approx([1, 1 / 3])
    with pytest.raises(ValueError, match="neither alexnet"):
        robustness.summarise({"a": found}, baseline="c")


def test_refusals(data, tmp_path):
    with pytest.raises(ValueError, match=r"no \.ckpt file"):
        robustness.load_net("resnet", 10, 32)
    with pytest.raises(SystemExit, match="at least 3"):
        robustness.run([*data, "--nets", "a=b.ckpt", "--out", str(tmp_path)])
