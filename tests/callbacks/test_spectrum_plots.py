"""Spectrum pictures: importance in closed form, files of a run, messages."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from lightning.pytorch import LightningModule

from callbacks.spectrum_plots import SpectrumPlots, draw_few_samples, draw_spectra, feature_importance


class Linear(torch.nn.Module):
    """Score = x @ weight."""

    def __init__(self, weight):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(weight))

    def forward(self, x):
        return torch.stack([-(x @ self.weight), x @ self.weight], dim=1) / 2

    def score(self, logits):
        return logits[:, 1] - logits[:, 0]


def test_importance_of_a_linear_score_is_weight_times_deviation():
    model = Linear([1.0, -3.0, 0.0])
    model.train()
    features = torch.randn(500, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([2.0, 1.0, 50.0])
    with torch.inference_mode():
        importance = feature_importance(model, features)
    moved = np.array([1, 3, 0]) * features.std(0).numpy()
    np.testing.assert_allclose(importance, moved / moved.sum(), rtol=1e-5)
    assert model.training
    assert model.weight.grad is None


def test_fit_writes_arrays_and_pictures(cli, real_fake_root, tmp_path):
    common = ["--model=SpectrumDetector", "--model.head=svm_linear", "--data=SpectrumDataModule"]
    common += [f"--data.root={real_fake_root}", "--data.num_workers=0", "--experiment=spectra"]
    common += ["--data.spectrum={axis: cycles, features: 20}", "--trainer.callbacks+=SpectrumPlots"]
    common += ["--trainer.enable_progress_bar=false"]
    fitted = cli("fit", *common, "--trainer.max_epochs=1")
    for name in ("spectrum_classes.png", "spectrum_importance.png"):
        assert (fitted.run_directory / name).stat().st_size > 5000
    with np.load(fitted.run_directory / "spectrum.npz", allow_pickle=False) as arrays:
        assert arrays["importance"].sum() == pytest.approx(1)
        assert arrays["mean_real"].shape == arrays["deviation_fake"].shape == (20,)
        assert arrays["cycles_per_pixel"][-1] < np.sqrt(0.5)
        assert (arrays["mean_real"] > arrays["mean_fake"]).all()  # the reals' noise is stronger
    validated = cli("validate", *common)
    assert (validated.run_directory / "spectrum_classes.png").is_file()


def test_few_sample_picture_has_a_line_per_head():
    rows = [
        {"head": head, "n": n, "seed": seed, "accuracy": 0.9 + 0.01 * seed}
        for head in ("svm_rbf", "kmeans")
        for n in (20, 200)
        for seed in range(3)
    ]
    (axes,) = draw_few_samples(pd.DataFrame(rows)).axes
    assert [line.get_label() for line in axes.lines] == ["svm_rbf", "kmeans"]
    np.testing.assert_allclose(axes.lines[0].get_ydata(), [91, 91])


def test_a_class_that_is_missing_is_left_out():
    (axes,) = draw_spectra(np.ones((3, 5)), np.zeros(3, dtype=np.int64)).axes
    assert [line.get_label() for line in axes.lines] == ["real (3)"]


def test_modules_without_features_are_refused():
    with pytest.raises(TypeError, match=r"LightningModule\.batch_features"):
        SpectrumPlots().setup(None, LightningModule(), "fit")
