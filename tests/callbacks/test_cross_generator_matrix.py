"""The matrix file, its pictures and its difference to a base; driven by real test runs."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch.utils.data import DataLoader

from callbacks import CrossGeneratorMatrix
from callbacks.cross_generator_matrix import draw_matrix, read_matrix


class Logs(LightningModule):
    """Logs the accuracies it is given, one per test loader."""

    def __init__(self, accuracies):
        super().__init__()
        self.accuracies = accuracies

    def test_step(self, batch, batch_idx, dataloader_idx=0):
        pass

    def on_test_epoch_end(self):
        for name, value in self.accuracies.items():
            self.log(f"test/{name}/accuracy", value)


def test_run(tmp_path, accuracies, **kwargs):
    loaders = {name: DataLoader(dataset=torch.zeros(2, 1)) for name in accuracies}
    callback = CrossGeneratorMatrix(**kwargs)
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    run = Trainer(accelerator="cpu", devices=1, callbacks=[callback], default_root_dir=tmp_path, **quiet)
    run.test(Logs(accuracies), loaders, verbose=False)


test_run.__test__ = False


def test_rows_of_several_runs_fill_one_matrix(tmp_path, caplog):
    caplog.set_level("INFO")
    folder = tmp_path / "matrix"
    test_run(
        tmp_path, {"adm": 0.9, "sd": 0.6, "adm@jpeg96": 0.2, "sd@jpeg96": 0.1}, trained_on="adm", folder=str(folder)
    )
    test_run(
        tmp_path, {"adm": 0.5, "sd": 0.8, "adm@jpeg96": 0.3, "sd@jpeg96": 0.4}, trained_on="sd", folder=str(folder)
    )
    matrix = read_matrix(folder / "cross_generator.csv")
    np.testing.assert_allclose(matrix, [[90, 60], [50, 80]], rtol=1e-5)
    assert list(matrix.index) == list(matrix.columns) == ["adm", "sd"]
    np.testing.assert_allclose(read_matrix(folder / "cross_generator_jpeg96.csv"), [[20, 10], [30, 40]], rtol=1e-5)
    assert (folder / "cross_generator.png").stat().st_size > 5000
    assert "Mean 70.00, without own cells 55.00" in caplog.text
    test_run(tmp_path, {"adm": 1.0, "sd": 0.6}, trained_on="adm", folder=str(folder))  # a second try replaces its row
    np.testing.assert_allclose(read_matrix(folder / "cross_generator.csv"), [[100, 60], [50, 80]], rtol=1e-5)


def test_difference_to_a_base(tmp_path):
    test_run(tmp_path, {"adm": 0.9, "sd": 0.6}, trained_on="adm", folder=str(tmp_path / "raw"))
    test_run(
        tmp_path, {"adm": 0.85, "sd": 0.75}, trained_on="adm", folder=str(tmp_path / "new"), base=str(tmp_path / "raw")
    )
    np.testing.assert_allclose(read_matrix(tmp_path / "new" / "cross_generator_difference.csv"), [[-5, 15]], rtol=1e-5)
    assert (tmp_path / "new" / "cross_generator_difference.png").is_file()
    with pytest.raises(FileNotFoundError, match="test the base runs first"):
        CrossGeneratorMatrix("adm", base=str(tmp_path / "none"))


def test_unknown_metric_is_named(tmp_path):
    with pytest.raises(KeyError, match="does not log 'test/adm/tpr'"):
        test_run(tmp_path, {"adm": 0.9, "sd": 0.6}, trained_on="adm", metric="tpr")


def test_picture_has_every_value():
    matrix = pd.DataFrame([[12.34, np.nan], [-5.0, 40.0]], index=["a", "b"], columns=["a", "b"])
    figure = draw_matrix(matrix, "difference", signed=True)
    assert [text.get_text() for text in figure.axes[0].texts] == ["+12.3", "-5.0", "+40.0"]
