"""How well generated samples cover real ones, from features of both (neighbourhood metrics).

Fréchet and kernel distances and the inception score are those of torchmetrics; these four are not in it.

Source: Kynkäänniemi et al. 2019 (improved precision and recall); Naeem et al. 2020 (density and coverage).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Neighbourhoods", "neighbourhood_metrics"]


class Neighbourhoods(NamedTuple):
    """Shares of samples that lie in the neighbourhoods of others.

    Attributes:
        precision: generated samples within the ball of some real one, in [0, 1].
        recall: real samples within the ball of some generated one, in [0, 1].
        density: how many balls of real samples a generated one lies in, in units of k; 1 for equal distributions.
        coverage: real samples whose ball holds a generated one, in [0, 1].
    """

    precision: float
    recall: float
    density: float
    coverage: float


def neighbourhood_metrics(real: Tensor, fake: Tensor, neighbours: int = 5, rows: int = 1024) -> Neighbourhoods:
    """Precision, recall, density and coverage; the ball of a sample reaches to its k-th neighbour of the same kind.

    Args:
        real: features of real samples, shape ``(N, D)``.
        fake: features of generated samples, shape ``(M, D)``, on the same device.
        neighbours: k, below N and M; 5 in Naeem et al., 3 in Kynkäänniemi et al.
        rows: distances are computed so many rows at a time; memory is ``rows * max(N, M)``.

    Raises:
        ValueError: if there are not more than ``neighbours`` samples of each, or one is not finite.
    """
    if min(len(real), len(fake)) <= neighbours or neighbours < 1:
        raise ValueError(f"{len(real)} real and {len(fake)} generated samples have no {neighbours}-th neighbour.")
    for name, features in (("real", real), ("generated", fake)):
        if not torch.isfinite(features).all():
            raise ValueError(f"A feature of a {name} sample is not finite.")
    real, fake = (x if x.dtype == torch.float64 else x.float() for x in (real, fake))
    real_reach, fake_reach = (_reach(x, neighbours, rows) for x in (real, fake))
    balls = torch.zeros(len(fake), dtype=torch.long, device=fake.device)  # of real samples, that hold a generated one
    recalled = torch.zeros(len(real), dtype=torch.bool, device=real.device)
    covered = torch.zeros_like(recalled)
    for start in range(0, len(real), rows):
        block = slice(start, start + rows)
        distances = torch.cdist(real[block], fake)
        inside = distances <= real_reach[block, None]
        balls += inside.sum(0)
        covered[block] = inside.any(1)
        recalled[block] = (distances <= fake_reach).any(1)
    return Neighbourhoods(
        precision=float((balls > 0).double().mean()),
        recall=float(recalled.double().mean()),
        density=float(balls.double().mean() / neighbours),
        coverage=float(covered.double().mean()),
    )


def _reach(x: Tensor, neighbours: int, rows: int) -> Tensor:
    """Distance of each sample to its k-th neighbour, itself not counted."""
    parts = []
    for start in range(0, len(x), rows):
        distances = torch.cdist(x[start : start + rows], x)
        distances.diagonal(start).fill_(float("inf"))
        parts.append(distances.kthvalue(neighbours, dim=1).values)
    return torch.cat(parts)
