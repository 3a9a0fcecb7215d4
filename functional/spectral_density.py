"""Trace and density of the eigenvalues of a symmetric operator from random vectors."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import eigh_tridiagonal
from torch import Tensor

from functional.lanczos import lanczos
from functional.parameter_vectors import random_vector

__all__ = ["Density", "Quadrature", "hutchinson_trace", "negative_mass", "spectral_density", "stochastic_lanczos"]

Array = NDArray[np.float64]
MatVec = Callable[[Tensor], Tensor]


class Quadrature(NamedTuple):
    """Nodes and weights that stand for the distribution of eigenvalues."""

    nodes: Array
    """Shape ``(R, m)``."""
    weights: Array
    """Shape ``(R, m)``, not negative; each row sums to 1."""

    def moment(self, power: int) -> float:
        """Mean of the eigenvalues to a power: 1 gives trace over size."""
        return float((self.weights * self.nodes**power).sum(axis=1).mean())


class Density(NamedTuple):
    """A smoothed distribution of eigenvalues."""

    at: Array
    """Eigenvalues, shape ``(N,)``, in rising order."""
    density: Array
    """Shape ``(N,)``; its integral is 1."""
    sigma: float
    """Standard deviation of the Gaussian that every node was smoothed with."""


def hutchinson_trace(
    matvec: MatVec, size: int, probes: int = 10, seed: int = 0, like: Tensor | None = None
) -> tuple[float, float]:
    """Trace of a symmetric operator from random signs (Hutchinson 1990).

    Args:
        matvec: product of the operator with a vector ``(D,)``.
        size: D.
        probes: number of random vectors.
        seed: of the random vectors.
        like: a tensor with the dtype and device of the vectors; float64 on the CPU by default.

    Returns:
        Estimate, and its standard error (NaN for one probe).

    Raises:
        ValueError: if there are no probes.
    """
    if probes < 1:
        raise ValueError(f"probes={probes} must be at least 1.")
    values = []
    for index in range(probes):
        vector = random_vector(size, seed, index, signs=True)
        vector = vector if like is None else vector.to(like)
        values.append(float((vector * matvec(vector)).sum(dtype=torch.float64)))
    error = float(np.std(values, ddof=1) / np.sqrt(probes)) if probes > 1 else float("nan")
    return float(np.mean(values)), error


def stochastic_lanczos(
    matvec: MatVec,
    size: int,
    steps: int = 80,
    repeats: int | Iterable[int] = 10,
    seed: int = 0,
    like: Tensor | None = None,
) -> Quadrature:
    """Stochastic Lanczos quadrature of the distribution of eigenvalues.

    Args:
        matvec: product of the operator with a vector ``(D,)``.
        size: D.
        steps: Lanczos steps per random vector, and nodes. Where an invariant space ends a run early, the missing nodes
            have weight zero.
        repeats: number of random vectors, or the numbers of those that this process is to take.
        seed: of the random vectors; each follows from it and its number.
        like: a tensor with the dtype and device of the vectors; float64 on the CPU by default.

    Returns:
        Nodes and weights, one row per random vector.

    Raises:
        ValueError: if there are no steps.
    """
    chosen = list(range(repeats) if isinstance(repeats, int) else repeats)
    steps = min(steps, size)
    nodes, weights = np.zeros((len(chosen), steps)), np.zeros((len(chosen), steps))
    for row, index in enumerate(chosen):
        start = random_vector(size, seed, index)
        found = lanczos(matvec, start if like is None else start.to(like), steps)
        values, vectors = eigh_tridiagonal(found.diagonal, found.off_diagonal)
        nodes[row, : len(values)], nodes[row, len(values) :] = values, values[0]
        weights[row, : len(values)] = vectors[0] ** 2 / (vectors[0] ** 2).sum()
    return Quadrature(nodes, weights)


def spectral_density(
    quadrature: Quadrature, sigma: float | None = None, at: Array | None = None, points: int = 1000
) -> Density:
    """Smooth a quadrature with a Gaussian.

    Args:
        quadrature: nodes and weights ``(R, m)``; any pair of such arrays.
        sigma: standard deviation of the Gaussian; a hundredth of the range of the nodes by default.
        at: eigenvalues at which the density is wanted, shape ``(N,)``; by default evenly from five deviations below
            the first node to five above the last, close enough that the density integrates to 1.
        points: least number of them.

    Returns:
        Density, and the deviation that was used.

    Raises:
        ValueError: if sigma is not positive.
    """
    nodes, weights = (np.asarray(part, dtype=np.float64) for part in quadrature)
    low, high = float(nodes.min()), float(nodes.max())
    if sigma is None:
        sigma = (high - low) / 100 or max(abs(high), 1.0) / 100
    if sigma <= 0:
        raise ValueError(f"sigma={sigma} must be positive.")
    if at is None:
        low, high = low - 5 * sigma, high + 5 * sigma
        at = np.linspace(low, high, max(points, int(np.ceil(4 * (high - low) / sigma))))
    repeats = len(nodes)
    density = np.zeros(len(at))
    for row, share in zip(nodes, weights, strict=True):  # a row at a time: N x m numbers
        density += np.exp(-0.5 * ((at[:, None] - row) / sigma) ** 2) @ share
    return Density(at, density / (repeats * sigma * np.sqrt(2 * np.pi)), sigma)


def negative_mass(quadrature: Quadrature, threshold: float = 0.0) -> float:
    """Share of the eigenvalues below ``-threshold``, in [0, 1]."""
    nodes, weights = (np.asarray(part, dtype=np.float64) for part in quadrature)
    return float((weights * (nodes < -threshold)).sum() / weights.sum())
