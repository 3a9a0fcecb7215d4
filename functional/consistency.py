"""Consistency of predictions over views of the same image."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["jensen_shannon_divergence"]


def jensen_shannon_divergence(logits: Tensor) -> Tensor:
    """Mean divergence of each view's prediction to the mean prediction (AugMix; Hendrycks et al. 2020).

    Args:
        logits: class scores of V views of B images, shape ``(V, B, C)``.

    Returns:
        Scalar in [0, log V], in nats, averaged over images.
    """
    log_views = logits.float().log_softmax(dim=-1)
    log_mixture = log_views.logsumexp(dim=0) - torch.log(torch.tensor(float(len(logits)), device=logits.device))
    return (log_views.exp() * (log_views - log_mixture)).sum(dim=-1).mean()
