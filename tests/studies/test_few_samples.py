"""The few-sample command: a table, a picture, the head's own options, groups, messages."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.model_selection import train_test_split
from sklearn.svm import SVC

from lightning_modules import SpectrumDetector
from lightning_modules.few_samples import few_sample_summary, few_sample_table
from studies.few_samples import collect_features, run


def cloud(count: int = 120, apart: float = 0.5):
    rng = np.random.default_rng(0)
    labels = np.arange(count) % 2
    return torch.from_numpy(rng.normal(size=(count, 6)) * 0.4 + apart * labels[:, None]), torch.from_numpy(labels)


def test_rows_are_what_scikit_learn_gives_by_hand():
    x, y = cloud()
    table = few_sample_table(x, y, [20, 60], range(3), ["svm_rbf"], C=2.0, gamma=0.5)
    row = table[(table["n"] == 60) & (table["seed"] == 2)].iloc[0]
    train, test = train_test_split(np.arange(120), train_size=60, stratify=y.numpy(), random_state=2)
    machine = SVC(C=2.0, gamma=0.5).fit(x.numpy()[train], y.numpy()[train])
    assert row["accuracy"] == machine.score(x.numpy()[test], y.numpy()[test])
    assert row["tested"] == 60
    summary = few_sample_summary(table)
    assert summary.loc[60, ("svm_rbf", "mean")] == pytest.approx(100 * table.loc[table["n"] == 60, "accuracy"].mean())
    assert summary.loc[20, ("svm_rbf", "std")] == pytest.approx(100 * table.loc[table["n"] == 20, "accuracy"].std())


def test_frames_of_training_videos_are_not_tested_on():
    x, y = cloud()
    groups = np.array([f"{index // 12}-{index % 2}" for index in range(120)])  # 20 videos of 6 frames
    table = few_sample_table(x, y, [6], [0], ["kmeans"], groups=groups)
    train, _ = train_test_split(np.arange(120), train_size=6, stratify=y.numpy(), random_state=0)
    assert table["tested"].item() == 120 - 6 * len(set(groups[train]))
    with pytest.raises(ValueError, match="n=100: the groups of the training images leave none"):
        few_sample_table(x, y, [100], [0], ["kmeans"], groups=groups)
    with pytest.raises(ValueError, match="n=119: of 120 images"):
        few_sample_table(x, y, [119], [0], ["kmeans"])


def test_command_writes_table_and_picture(tmp_path, capsys):
    x, y = cloud()
    np.savez(tmp_path / "t.npz", features=x.numpy(), is_fake=y.numpy() == 1)
    arguments = ["--model=SpectrumDetector", "--model.gamma=0.3", "--data=FeatureTableDataModule", "--sizes=20,40,500"]
    arguments += [f"--data.file={tmp_path / 't.npz'}", "--seeds=2", "--heads=svm_rbf,kmeans", "--experiment=few"]
    table = run([*arguments, "--trainer.accelerator=cpu"])
    assert len(table) == 2 * 2 * 2
    expected = few_sample_table(x, y, [20, 40], range(2), ["svm_rbf", "kmeans"], gamma=0.3)
    pd.testing.assert_frame_equal(table, expected)
    (folder,) = tmp_path.glob("runs/few/*")
    pd.testing.assert_frame_equal(pd.read_csv(folder / "few_samples.csv"), table)
    assert (folder / "few_samples.png").stat().st_size > 5000
    printed = capsys.readouterr().out
    assert "--sizes 500 is left out: there are 120 images" in printed
    assert "60 real and 60 fake" in printed


def test_images_count_once_though_loaders_share_reals(real_fake_root):
    from datamodules import SpectrumDataModule

    data = SpectrumDataModule(root=str(real_fake_root), num_workers=0)
    features, labels, groups = collect_features(SpectrumDetector(), data)
    assert features.shape == (80, 80)
    assert labels.sum() == 40
    assert groups is None


def test_refusals(tmp_path, capsys):
    with pytest.raises(SystemExit):
        run(["--heads=svm_rbf,tree"])
    assert "tree: known are svm_rbf" in capsys.readouterr().err
    np.savez(tmp_path / "t.npz", features=np.zeros((4, 2)), is_fake=np.array([0, 1, 0, 1]))
    data = ["--data=FeatureTableDataModule", f"--data.file={tmp_path / 't.npz'}"]
    with pytest.raises(SystemExit, match="there are 4 images in all"):
        run(["--model=SpectrumDetector", *data])
