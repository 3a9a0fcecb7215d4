"""Classifier of victim features: one of the heads that scikit-learn fits, with scaling as the paper has it."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_modules.fitted_heads import FittedHead

__all__ = ["AdversarialHead", "AdversarialHeadName", "Scaler"]

AdversarialHeadName = Literal["logistic_regression", "svm_rbf", "svm_linear"]
Scaler = Literal["none", "standard", "minmax"]


class AdversarialHead(FittedHead):
    """Logistic regression or SVM of clean (0) and attacked (1) features, kept as tensors.

    The authors stop their logistic regression after 100 iterations on unscaled spectra; here it runs to the end, or
    says that it did not.

    Args:
        name: ``logistic_regression``, ``svm_rbf`` or ``svm_linear``.
        C: inverse strength of the regularisation.
        gamma: width of the kernel, a number, ``auto`` (1 / features) or ``scale`` (1 / (features x variance)).
        scaler: by the training data bring each feature to mean 0 and variance 1 (``standard``), or to [0, 1]
            (``minmax``), or leave it (``none``).
        seed: seed of liblinear.

    Raises:
        ValueError: if a name is unknown.
    """

    def __init__(
        self,
        name: AdversarialHeadName = "logistic_regression",
        C: float = 1.0,
        gamma: float | Literal["auto", "scale"] = "scale",
        scaler: Scaler = "none",
        seed: int = 0,
    ) -> None:
        for value, known, key in (
            (name, get_args(AdversarialHeadName), "head"),
            (scaler, get_args(Scaler), "scaler"),
        ):
            if value not in known:
                raise ValueError(f"model.{key}={value!r} is not one of {', '.join(known)}.")
        super().__init__(name, C=C, gamma=gamma, standardize=scaler == "standard", seed=seed)
        self.scaler = scaler

    def fit(self, features: Tensor, labels: Tensor) -> None:
        """As for :class:`FittedHead`, after scaling to [0, 1] if asked for."""
        if self.scaler != "minmax":
            super().fit(features, labels)
            return
        values = features.detach().cpu().double()
        low, high = values.aminmax(dim=0)
        width = torch.where(high > low, high - low, 1.0)
        super().fit((values - low) / width, labels)
        self._buffers["shift"], self._buffers["scale"] = low.to(self.shift), width.to(self.scale)

    def _solve(
        self, x: NDArray[np.float64], y: NDArray[np.int64], gamma: float
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], np.float64]:
        """As for :class:`FittedHead`; more features than images are first turned into as many as there are images.

        Regularised linear models and kernels depend on inner products alone, which a rotation keeps; the space that N
        images span has N dimensions at most. The rows of the solution are turned back.
        """
        if x.shape[1] <= len(x):
            return super()._solve(x, y, gamma)
        values, vectors = np.linalg.eigh(x @ x.T)
        kept = values > values[-1] * len(x) * np.finfo(np.float64).eps
        lengths = np.sqrt(values[kept])
        rows, coefficients, bias = super()._solve(vectors[:, kept] * lengths, y, gamma)
        return rows @ (vectors[:, kept] / lengths).T @ x, coefficients, bias
