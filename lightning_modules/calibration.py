"""What a detector learns from validation scores about its own verdicts: temperature, threshold, unsure band."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torchmetrics.classification import BinaryCalibrationError
from torchmetrics.functional.classification import binary_calibration_error

from functional.calibration import cross_fitted_temperatures, fit_temperature
from functional.detection import threshold_at_fpr, unsure_band

__all__ = ["ECE_BINS", "VERDICTS", "CalibratedError", "VerdictCalibration"]

VERDICTS = ("real", "fake", "unsure")
ECE_BINS = 15


class CalibratedError(BinaryCalibrationError):
    """Expected calibration error of the calibrated probability.

    In a ``MetricCollection`` whose ``update`` is called with keywords it takes ``calibrated`` and leaves ``preds``, the
    plain probability, to the others.
    """

    def __init__(self) -> None:
        super().__init__(n_bins=ECE_BINS)

    def update(self, calibrated: Tensor, target: Tensor) -> None:
        """Collect calibrated probabilities of "fake" and labels, both ``(B,)``."""
        super().update(calibrated, target)


class VerdictCalibration(nn.Module):
    """Temperature, threshold and unsure band of a detector, chosen on validation scores and kept in its checkpoint.

    Scores are log-odds of "fake" up to a factor, or any number that rises with it. Until :meth:`fit` has run, the
    probability is the plain sigmoid and the verdict is that of even odds. The buffers stay float32 when the module
    around them is cast to half precision.

    Args:
        error_rate: tolerated share of wrong verdicts per class on validation data, in [0, 0.5).

    Attributes:
        temperature: T of ``probability = sigmoid(score / T)``.
        threshold: score above which a share ``error_rate`` of the reals lies at most: "fake" at a fixed FPR.
        unsure_below: lower end of the unsure band; below it at most ``error_rate`` of the fakes lie.
        unsure_above: upper end of the unsure band; above it at most ``error_rate`` of the reals lie.

    Raises:
        ValueError: if ``error_rate`` is outside [0, 0.5).
    """

    temperature: Tensor
    threshold: Tensor
    unsure_below: Tensor
    unsure_above: Tensor

    def __init__(self, error_rate: float = 0.05) -> None:
        super().__init__()
        if not 0 <= error_rate < 0.5:
            raise ValueError(f"model.error_rate={error_rate}: a tolerated share of wrong verdicts lies in [0, 0.5).")
        self.error_rate = error_rate
        self.register_buffer("temperature", torch.ones((), dtype=torch.float32))
        self.register_buffer("threshold", torch.zeros((), dtype=torch.float32))
        self.register_buffer("unsure_below", torch.zeros((), dtype=torch.float32))
        self.register_buffer("unsure_above", torch.zeros((), dtype=torch.float32))

    @torch.no_grad()
    def fit(self, scores: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Fill the buffers; the order of the scores does not matter, so ranks that gathered them agree.

        Args:
            scores: of validation images, finite, shape ``(N,)``.
            labels: 0 real, 1 fake, shape ``(N,)``; both occur.

        Returns:
            ``temperature``; ``ece``, the expected calibration error (15 bins) of the plain sigmoid; and
            ``ece_calibrated``, that of temperature scaling, where each half of the data is scaled with the temperature
            of the other half, so that the figure is not flattered. It is NaN if a class has fewer than two images.

        Raises:
            ValueError: if a score is not finite, a label is neither 0 nor 1, or a class is missing.
        """
        values, truth = scores.detach().cpu().double(), labels.detach().cpu()
        temperature = fit_temperature(values, truth)
        self.temperature.copy_(temperature)
        self.threshold.copy_(threshold_at_fpr(values[truth == 0], self.error_rate))
        lower, upper = unsure_band(values, truth, self.error_rate)
        self.unsure_below.copy_(lower)
        self.unsure_above.copy_(upper)
        temperatures = cross_fitted_temperatures(values, truth)
        error = temperatures.sum() if temperatures.isnan().any() else _ece(values / temperatures, truth)
        report = {"ece": _ece(values, truth), "ece_calibrated": error, "temperature": temperature}
        return {name: value.float().to(scores.device) for name, value in report.items()}

    def probability(self, scores: Tensor) -> Tensor:
        """Calibrated probability of "fake", same shape as the scores."""
        return torch.sigmoid(scores / self.temperature)

    def verdict(self, scores: Tensor) -> Tensor:
        """0 real, 1 fake, 2 unsure, int64, same shape as the scores; NaN is unsure."""
        scores = scores.to(self.unsure_below.dtype)  # the bounds were rounded to it: both error rates go on to hold
        return torch.where(scores < self.unsure_below, 0, torch.where(scores > self.unsure_above, 1, 2))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> VerdictCalibration:
        """Follow to other devices, but keep the type: in bfloat16 a bound has three digits."""
        before = dict(self.named_buffers())
        super()._apply(fn, recurse)
        for name, buffer in before.items():
            moved = getattr(self, name)
            if moved.dtype != buffer.dtype:
                setattr(self, name, buffer.to(moved.device))
        return self


def _ece(scores: Tensor, labels: Tensor) -> Tensor:
    return binary_calibration_error(torch.sigmoid(scores), labels.long(), n_bins=ECE_BINS)
