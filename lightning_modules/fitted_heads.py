"""Classifiers of spectra: fitted once by scikit-learn and kept as tensors, or a small network."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.svm import SVC
from torch import Tensor, nn

__all__ = ["FITTED_HEADS", "FeatureRange", "FittedHead", "FittedHeadName", "SpectrumMLP"]

FittedHeadName = Literal["svm_rbf", "svm_linear", "svm_poly", "logistic_regression", "kmeans"]
FITTED_HEADS: tuple[FittedHeadName, ...] = ("svm_rbf", "svm_linear", "svm_poly", "logistic_regression", "kmeans")

_PUBLISHED_C = {"svm_rbf": 6.37}  # 1 for all others
_PUBLISHED_GAMMA: dict[str, float | Literal["auto"]] = {"svm_rbf": 0.86, "svm_poly": "auto"}


class FittedBuffers(nn.Module):
    """Module whose buffers are filled by a fit, in the shapes and the type that the fit gives.

    A checkpoint brings its own shapes. The type stays when the module around is cast to half precision, in which a
    support vector has three digits.
    """

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for name, buffer in self._buffers.items():
            loaded = state_dict.get(prefix + name)
            if isinstance(loaded, Tensor) and buffer is not None:
                self._buffers[name] = torch.empty_like(loaded, device=buffer.device)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> FittedBuffers:
        for name, buffer in self.named_buffers(recurse=False):
            device = fn(torch.empty(0, device=buffer.device)).device
            self._buffers[name] = buffer.to(device, _precise(device))
        return self


def _precise(device: torch.device) -> torch.dtype:
    """float64 where the device has it."""
    return torch.float32 if device.type == "mps" else torch.float64


class FittedHead(FittedBuffers):
    """SVM, logistic regression or k-means on features, all as one sum over kernels of a few rows.

    The score is ``sum_i coefficients_i * kernel(rows_i, x) + bias`` with the kernel ``<r, x>``,
    ``exp(-gamma |r - x|^2)`` or ``(gamma <r, x>)^3``. Linear models, and k-means with two centres, have a single row.

    Args:
        name: ``svm_rbf``, ``svm_linear``, ``svm_poly`` (degree 3), ``logistic_regression`` (liblinear), or ``kmeans``
            (two clusters, found without labels; labels only say which of them is called fake).
        C: inverse strength of the regularisation; by default the published 6.37 for ``svm_rbf``, 1 for others.
        gamma: width of the kernel, a number, ``auto`` (1 / features) or ``scale`` (1 / (features x variance)). By
            default the published 0.86 for ``svm_rbf`` and ``auto`` for ``svm_poly``; with ``standardize`` ``scale``.
        standardize: bring each feature to mean 0 and variance 1 on the training data first (not in the paper).
        seed: seed of k-means' starts and of liblinear.

    Source: Durall et al. 2019, Sec. 3.2, and the parameters of the authors' notebooks.
    """

    rows: Tensor
    coefficients: Tensor
    bias: Tensor
    gamma: Tensor
    shift: Tensor
    scale: Tensor

    def __init__(
        self,
        name: FittedHeadName,
        C: float | None = None,
        gamma: float | Literal["auto", "scale"] | None = None,
        standardize: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if name not in FITTED_HEADS:
            raise ValueError(f"{name!r} is no head that is fitted; take one of {', '.join(FITTED_HEADS)}.")
        self.name, self.standardize, self.seed = name, standardize, seed
        self.C = _PUBLISHED_C.get(name, 1.0) if C is None else C
        default: float | Literal["auto", "scale"] = "scale" if standardize else _PUBLISHED_GAMMA.get(name, "scale")
        self.gamma_choice = default if gamma is None else gamma
        for key in ("rows", "coefficients", "bias", "gamma", "shift", "scale"):
            self.register_buffer(key, torch.empty(0, dtype=torch.float64))

    @property
    def fitted(self) -> bool:
        """Whether there is something to predict with."""
        return self.rows.numel() > 0

    def fit(self, features: Tensor, labels: Tensor) -> None:
        """Fit on all training data at once, in float64 on the CPU.

        For another order of the rows libsvm and liblinear stop elsewhere, within their tolerance.

        Args:
            features: shape ``(N, K)``.
            labels: 0 real, 1 fake, shape ``(N,)``; both must occur.

        Raises:
            ValueError: if a class is missing, or features are not finite.
        """
        x, y = features.detach().double().cpu().numpy(), labels.cpu().numpy().astype(int)
        if set(np.unique(y)) != {0, 1}:
            raise ValueError(
                f"model.head={self.name}: {len(y)} training images with the labels {sorted(set(y.tolist()))}; a "
                "detector is fitted on both, 0 (real) and 1 (fake)."
            )
        if not np.isfinite(x).all():
            raise ValueError(
                f"model.head={self.name}: features of {(~np.isfinite(x)).any(1).sum()} images are not finite."
            )
        shift, scale = np.zeros(x.shape[1]), np.ones(x.shape[1])
        if self.standardize:
            deviation = x.std(axis=0)
            shift, scale = x.mean(axis=0), np.where(deviation > 0, deviation, 1.0)
        x = (x - shift) / scale
        gamma = self._gamma(x)
        rows, coefficients, bias = self._solve(x, y, gamma)
        values = {"rows": rows, "coefficients": coefficients, "bias": bias}
        values |= {"gamma": np.float64(gamma), "shift": shift, "scale": scale}
        device = self.rows.device
        for key, value in values.items():
            self._buffers[key] = torch.from_numpy(np.array(value)).to(device, _precise(device))

    def forward(self, features: Tensor) -> Tensor:
        """Scores.

        Args:
            features: shape ``(B, K)``, any floating type.

        Returns:
            scikit-learn's decision function, above 0 for "fake", shape ``(B,)``, in float64. For ``kmeans``: squared
            distance to the real centre less that to the fake one.

        Raises:
            RuntimeError: before the fit.
            ValueError: if there are not as many features as in training.
        """
        if not self.fitted:
            raise RuntimeError(f"The {self.name} head is not fitted yet: run `fit`, or load a checkpoint.")
        if features.shape[-1] != self.rows.shape[1]:
            raise ValueError(
                f"{features.shape[-1]} features for a {self.name} head fitted on {self.rows.shape[1]}: give images of "
                "the size and the channels of training, and the same settings of the features."
            )
        with torch.autocast(features.device.type, enabled=False):
            x = (features.to(self.rows.dtype) - self.shift) / self.scale
            kernel = x @ self.rows.mT
            if self.name == "svm_rbf":
                distances = x.square().sum(1, keepdim=True) + self.rows.square().sum(1) - 2 * kernel
                kernel = torch.exp(-self.gamma * distances.clamp_min(0))
            elif self.name == "svm_poly":
                kernel = (self.gamma * kernel) ** 3
            return kernel @ self.coefficients + self.bias

    def _gamma(self, x: NDArray[np.float64]) -> float:
        if self.gamma_choice == "auto":
            return 1 / x.shape[1]
        if self.gamma_choice == "scale":
            return 1 / (x.shape[1] * (x.var() or 1.0))
        return float(self.gamma_choice)

    def _solve(
        self, x: NDArray[np.float64], y: NDArray[np.int64], gamma: float
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], np.float64]:
        """Rows ``(S, K)``, their coefficients ``(S,)`` and the bias."""
        if self.name == "kmeans":
            clusters = KMeans(n_clusters=2, n_init=10, random_state=self.seed).fit(x)
            real, fake = clusters.cluster_centers_
            if (clusters.labels_ == y).mean() < 0.5:
                real, fake = fake, real
            return 2 * (fake - real)[None], np.ones(1), np.float64((real**2).sum() - (fake**2).sum())
        if self.name == "logistic_regression":
            model = LogisticRegression(solver="liblinear", C=self.C, max_iter=1000, random_state=self.seed)
            with warnings.catch_warnings():
                warnings.simplefilter("error", ConvergenceWarning)  # a fit that has not ended is no fit
                model.fit(x, y)
            return model.coef_, np.ones(1), np.float64(model.intercept_[0])
        machine = SVC(C=self.C, kernel=self.name.removeprefix("svm_"), gamma=gamma, degree=3).fit(x, y)
        if self.name == "svm_linear":
            return machine.coef_, np.ones(1), np.float64(machine.intercept_[0])
        return machine.support_vectors_, machine.dual_coef_[0], np.float64(machine.intercept_[0])


class SpectrumMLP(nn.Module):
    """One hidden layer on standardised features, trained by gradient descent.

    Args:
        features: number of features K.
        hidden: width of the hidden layer.
    """

    def __init__(self, features: int, hidden: int = 64) -> None:
        super().__init__()
        self.normalize = nn.BatchNorm1d(features, affine=False, momentum=None)  # the mean of all batches
        self.layers = nn.Sequential(nn.Linear(features, hidden), nn.ReLU(), nn.Linear(hidden, 1))
        self.features = features

    def forward(self, features: Tensor) -> Tensor:
        """Log-odds of "fake", shape ``(B,)``, of features ``(B, K)``.

        Raises:
            ValueError: if K is another than the network was built for.
        """
        if features.shape[-1] != self.features:
            raise ValueError(
                f"{features.shape[-1]} features reach a network built for {self.features}; give the model and the data "
                "the same `spectrum.features`."
            )
        x = features.float()
        if len(x) == 1:  # has no variance
            mean, variance = cast(Tensor, self.normalize.running_mean), cast(Tensor, self.normalize.running_var)
            x = (x - mean) / (variance + self.normalize.eps).sqrt()
        else:
            x = self.normalize(x)
        return self.layers(x.to(self.dtype)).squeeze(1)

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights."""
        return next(self.layers.parameters()).dtype


class FeatureRange(FittedBuffers):
    """Smallest and largest value of each feature in training, and how far an image lies outside of them."""

    lowest: Tensor
    highest: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("lowest", torch.empty(0, dtype=torch.float64))
        self.register_buffer("highest", torch.empty(0, dtype=torch.float64))

    def update(self, features: Tensor) -> None:
        """Widen the range by features ``(B, K)``."""
        low, high = features.detach().aminmax(dim=0)
        if self.lowest.numel():
            low, high = torch.minimum(self.lowest, low), torch.maximum(self.highest, high)
        self._buffers["lowest"], self._buffers["highest"] = low, high

    def excess(self, features: Tensor) -> Tensor:
        """Distance of the worst feature to its range, in widths of the range; 0 inside or where nothing was seen.

        Args:
            features: shape ``(B, K)``.

        Returns:
            Shape ``(B,)``.
        """
        if not self.lowest.numel():
            return features.new_zeros(len(features))
        width = self.highest - self.lowest
        outside = torch.maximum(self.lowest - features, features - self.highest).clamp_min(0)
        return (outside / width.clamp_min(1e-6 * (1 + self.highest.abs()))).amax(dim=1)
