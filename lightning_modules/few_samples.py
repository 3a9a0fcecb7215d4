"""How few labelled images do: heads fitted on N images, many times, and tested on all others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from sklearn.model_selection import train_test_split
from torch import Tensor

from lightning_modules.fitted_heads import FITTED_HEADS, FittedHead, FittedHeadName

__all__ = ["few_sample_summary", "few_sample_table"]


def few_sample_table(
    features: Tensor,
    labels: Tensor,
    sizes: Sequence[int],
    seeds: Sequence[int],
    heads: Sequence[FittedHeadName] = FITTED_HEADS,
    groups: NDArray[Any] | None = None,
    **options: Any,
) -> pd.DataFrame:
    """Fit every head on N images for each seed, and test it on the others.

    Training images are drawn with the shares of the classes. k-means sees no labels but to name its clusters.

    Args:
        features: of all images, shape ``(M, K)``.
        labels: 0 real, 1 fake, shape ``(M,)``.
        sizes: numbers N of training images, each at least 2 and below M.
        seeds: one draw for each.
        heads: names of heads.
        groups: what images belong together, e.g. the video of a frame, shape ``(M,)``; images that share a group with
            a training image are not tested on.
        options: further arguments of :class:`FittedHead`.

    Returns:
        One row per head, N and seed: ``accuracy`` and ``balanced_accuracy`` at the head's own threshold and ``auroc``,
        in [0, 1], and the number ``tested``.

    Raises:
        ValueError: if a size leaves nothing to test on.
    """
    truth = labels.cpu().numpy().astype(int)
    rows = []
    for size in sizes:
        if not 2 <= size <= len(truth) - 2:
            raise ValueError(f"n={size}: of {len(truth)} images at least 2 are trained on, and at least 2 tested on.")
        for seed in seeds:
            train, test = train_test_split(np.arange(len(truth)), train_size=size, stratify=truth, random_state=seed)
            if groups is not None:
                test = test[~np.isin(groups[test], groups[train])]
            if len(np.unique(truth[test])) < 2:
                raise ValueError(f"n={size}: the groups of the training images leave none of a class to test on.")
            for head in heads:
                machine = FittedHead(head, **options)
                machine.fit(features[train], torch.from_numpy(truth[train]))
                scores = machine(features[test]).cpu().numpy()
                verdicts = (scores > 0).astype(int)
                rows.append(
                    {
                        "head": head,
                        "n": size,
                        "seed": seed,
                        "accuracy": float((verdicts == truth[test]).mean()),
                        "balanced_accuracy": float(balanced_accuracy_score(truth[test], verdicts)),
                        "auroc": float(roc_auc_score(truth[test], scores)),
                        "tested": len(test),
                    }
                )
    return pd.DataFrame(rows)


def few_sample_summary(table: pd.DataFrame, metric: str = "accuracy") -> pd.DataFrame:
    """Mean and standard deviation over seeds in %, one row per N, two columns per head."""
    summary = table.pivot_table(index="n", columns="head", values=metric, aggfunc=["mean", "std"]) * 100
    return summary.swaplevel(axis=1)[table["head"].unique()]
