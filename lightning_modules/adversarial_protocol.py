"""Experiments of SpectralDefense on features of pairs: one attack, transfer to others, an informed attacker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from torch import Tensor

from lightning_modules.adversarial_detector import AdversarialDetector
from lightning_modules.attacks import AdaptivePGD
from lightning_modules.victim_features import VictimFeatures

__all__ = ["adaptive_rows", "detection_metrics", "fit_detector", "pair_features", "transfer_rows"]

Rows = Mapping[str, NDArray[np.int64]]
PUBLISHED_MINIBATCH = 100


@torch.no_grad()
def pair_features(
    detector: AdversarialDetector, clean: Tensor, attacked: Tensor, minibatch_reference: bool = False
) -> Tensor:
    """Features of pairs, in minibatches of 100.

    Args:
        detector: whose features; where they need statistics, these are fitted.
        clean: images in [0, 1], shape ``(N, C, H, W)``, on any device.
        attacked: the same images after the attack.
        minibatch_reference: for ``lid``, compare with the clean images of the minibatch, as published: an attacked
            image with its own source among others, which no defender has.

    Returns:
        Of clean and attacked images, float32 on the CPU, shape ``(2, N, K)``.
    """
    features: VictimFeatures = detector.features
    parts = []
    for start in range(0, len(clean), PUBLISHED_MINIBATCH):
        rows = slice(start, start + PUBLISHED_MINIBATCH)
        options: dict[str, Any] = {}
        if minibatch_reference:
            end = min(start + PUBLISHED_MINIBATCH, len(clean))  # a last minibatch is filled up with images before it
            options = {"reference": clean[max(0, end - PUBLISHED_MINIBATCH) : end].to(detector.device), "skip": 1}
        both = [features(detector.victim, part[rows].to(detector.device), **options)[1] for part in (clean, attacked)]
        parts.append(torch.stack(both).float().cpu())
    return torch.cat(parts, dim=1)


def detection_metrics(scores: Tensor, labels: Tensor) -> dict[str, float]:
    """Area under the ROC curve, and rates at score 0, which is even odds.

    Args:
        scores: higher for attacked, shape ``(N,)``.
        labels: 0 clean, 1 attacked, shape ``(N,)``; both occur.

    Returns:
        ``auroc``, ``accuracy``, ``tpr`` (attacked images found), ``tnr`` and ``precision`` (NaN if nothing is found).
    """
    found, truth = (scores > 0).numpy(), labels.numpy() == 1
    return {
        "auroc": float(roc_auc_score(truth, scores.numpy())),
        "accuracy": float((found == truth).mean()),
        "tpr": float(found[truth].mean()),
        "tnr": float(1 - found[~truth].mean()),
        "precision": float(truth[found].mean()) if found.any() else float("nan"),
    }


def transfer_rows(
    detector: AdversarialDetector,
    features: Mapping[str, Tensor],
    parts: Mapping[str, Rows],
    trained_on: Sequence[str],
) -> list[dict[str, Any]]:
    """Fit the detector's head on the training pairs of each attack, and test it on the test pairs of all.

    Args:
        detector: its head is fitted anew for each attack and stays as for the last.
        features: of pairs, by attack, shapes ``(2, N, K)``.
        parts: rows of ``train`` and ``test`` pairs, by attack. No image may be trained on for one attack and tested on
            for another.
        trained_on: attacks to train on.

    Returns:
        A row for each pair of attacks: ``trained_on``, ``tested_on``, numbers of images and the metrics.
    """
    rows = []
    for train in trained_on:
        _fit_head(detector, features[train][:, parts[train]["train"]])
        for test, values in features.items():
            tested, labels = _stacked(values[:, parts[test]["test"]])
            rows.append(
                {
                    "trained_on": train,
                    "tested_on": test,
                    "trained": 2 * len(parts[train]["train"]),
                    "tested": len(labels),
                    **detection_metrics(detector.backbone(tested.to(detector.device)).cpu(), labels),
                }
            )
    return rows


def fit_detector(detector: AdversarialDetector, features: Tensor, parts: Rows) -> None:
    """Fit head and verdicts of a detector, whose features are fitted already.

    Args:
        detector: is fitted in place.
        features: of pairs, shape ``(2, N, K)``.
        parts: rows of ``train`` and ``val`` pairs.
    """
    _fit_head(detector, features[:, parts["train"]])
    values, labels = _stacked(features[:, parts["val"]])
    detector.calibration.fit(detector.backbone(values.to(detector.device)), labels)


def adaptive_rows(
    detector: AdversarialDetector,
    images: Tensor,
    labels: Tensor,
    weights: Sequence[float],
    attack: AdaptivePGD,
    seed: int = 0,
    batch_size: int = 50,
) -> list[dict[str, Any]]:
    """What an attacker reaches who knows the detector, by how much the detector counts in the attack's loss.

    Args:
        detector: fitted, with verdicts.
        images: clean and correctly classified, in [0, 1], shape ``(N, C, H, W)``.
        labels: their classes, shape ``(N,)``.
        weights: of the detector's score; 0 is an attacker who does not know of it.
        attack: settings of the attack; its ``weight`` is replaced.
        seed: of random starts.
        batch_size: images attacked at once.

    Returns:
        A row for each weight, and one for an attacker who tries them all (``weight`` NaN): shares of the images of
        which the victim was ``fooled``, the detector ``evaded`` (score at most 0), ``success``, both at once, and
        ``success_at_fpr``, both with the detector's threshold for ``error_rate`` false alarms.
    """
    rows, successes = [], []
    for weight in weights:
        settings = AdaptivePGD(attack.epsilon, attack.steps, attack.relative_step, weight)
        outcomes = []
        for start in range(0, len(images), batch_size):
            x, y = (part[start : start + batch_size].to(detector.device) for part in (images, labels))
            attacked, fooled = settings.perturb(detector.victim, _score_of(detector), x, y, seed + start)
            with torch.no_grad():
                score = detector.guarded(attacked).score
            outcomes.append(torch.stack([fooled, score <= 0, score <= detector.calibration.threshold]).cpu())
        fooled, evaded, below = torch.cat(outcomes, dim=1)
        successes.append(torch.stack([fooled & evaded, fooled & below]))
        rows.append(
            {
                "weight": weight,
                "fooled": float(fooled.float().mean()),
                "evaded": float(evaded.float().mean()),
                "success": float((fooled & evaded).float().mean()),
                "success_at_fpr": float((fooled & below).float().mean()),
            }
        )
    best = torch.stack(successes).any(dim=0).float().mean(dim=1)
    rows.append({"weight": float("nan"), "success": float(best[0]), "success_at_fpr": float(best[1])})
    return rows


def _score_of(detector: AdversarialDetector) -> Any:
    def score(x: Tensor) -> Tensor:
        return detector.backbone(detector.embed(x))

    return score


def _fit_head(detector: AdversarialDetector, features: Tensor) -> None:
    detector.backbone.fit(*_stacked(features))


def _stacked(features: Tensor) -> tuple[Tensor, Tensor]:
    """Clean and then attacked features ``(2 * N, K)`` of pairs ``(2, N, K)``, with labels."""
    return features.flatten(0, 1), torch.tensor([0, 1]).repeat_interleave(features.shape[1])
