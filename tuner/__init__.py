"""Hyperparameter search: the lazy Gaussian-process sampler, and the trials that ``train.py tune`` launches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tuner.lazy_gp_sampler import LazyGPSampler

__all__ = ["LazyGPSampler"]


def __getattr__(name: str) -> Any:
    """Import Optuna only where the sampler is used: a fit that reports to a worker needs none of it."""
    if name == "LazyGPSampler":
        from tuner.lazy_gp_sampler import LazyGPSampler

        return LazyGPSampler
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
