"""Lanczos' method with full re-orthogonalisation, and the outermost eigenpairs of a symmetric operator."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import eigh_tridiagonal
from torch import Tensor

__all__ = ["Eigenpairs", "Tridiagonal", "eigenpairs", "lanczos"]

Array = NDArray[np.float64]
MatVec = Callable[[Tensor], Tensor]
_CHUNK = 16  # basis vectors per block of memory


class Tridiagonal(NamedTuple):
    """An operator seen from its Krylov space."""

    diagonal: Array
    """Shape ``(m,)``."""
    off_diagonal: Array
    """Shape ``(m - 1,)``, not negative."""
    basis: Tensor
    """Orthonormal vectors, shape ``(m, D)``."""
    residual: float
    """Length of what the next vector would have been; zero where the space is invariant."""


class Eigenpairs(NamedTuple):
    """Outermost eigenvalues, largest first and then smallest first, with their vectors."""

    top: Array
    """The largest eigenvalues in falling order."""
    bottom: Array
    """The smallest eigenvalues in rising order."""
    top_vectors: Tensor
    """Unit vectors, shape ``(top, D)``; the entry of largest size is positive."""
    bottom_vectors: Tensor
    """Unit vectors, shape ``(bottom, D)``."""
    top_errors: Array
    """Estimated errors of the largest eigenvalues."""
    bottom_errors: Array
    """Estimated errors of the smallest eigenvalues."""
    steps: int
    """Products that were needed."""


class _Basis:
    """Orthonormal vectors in blocks, so that memory grows with their number."""

    def __init__(self) -> None:
        self.blocks: list[Tensor] = []
        self.count = 0

    def append(self, vector: Tensor) -> None:
        row = self.count % _CHUNK
        if row == 0:
            self.blocks.append(torch.empty((_CHUNK, len(vector)), dtype=vector.dtype, device=vector.device))
        self.blocks[-1][row] = vector
        self.count += 1

    def rows(self) -> Iterator[Tensor]:
        for index, block in enumerate(self.blocks):
            yield block[: min(_CHUNK, self.count - index * _CHUNK)]

    def project_out(self, vector: Tensor) -> Tensor:
        for _ in range(2):  # twice is enough (Parlett 1998, Sec. 6.9)
            for rows in self.rows():
                vector = torch.addmv(vector, rows.T, rows @ vector, alpha=-1)
        return vector

    def combine(self, coefficients: Array) -> Tensor:
        """Linear combinations ``(k, D)`` for coefficients ``(k, m)``."""
        start, total = 0, torch.zeros((), device=self.blocks[0].device, dtype=self.blocks[0].dtype)
        for rows in self.rows():
            part = torch.from_numpy(np.ascontiguousarray(coefficients[:, start : start + len(rows)]))
            total = total + part.to(rows) @ rows
            start += len(rows)
        return total


class _Process:
    """The steps one by one."""

    def __init__(self, matvec: MatVec, start: Tensor) -> None:
        length = start.norm()
        if start.ndim != 1 or not bool(length > 0) or not bool(length.isfinite()):
            raise ValueError(f"start: Lanczos needs a finite vector other than zero, got shape {tuple(start.shape)}.")
        self.matvec, self.basis = matvec, _Basis()
        self.diagonal: list[float] = []
        self.off_diagonal: list[float] = []
        self.scale = 0.0
        self.next, self.residual = start / length, 1.0

    def step(self) -> None:
        """Take the next vector into the basis and find the one after it; ``residual`` is zero if there is none."""
        vector = self.next
        if self.diagonal:
            self.off_diagonal.append(self.residual)
        self.basis.append(vector)
        image = self.matvec(vector).to(vector)
        size = float(image.norm())
        if not np.isfinite(size):
            raise ValueError("The operator gives numbers that are not finite: is the loss finite at this point?")
        self.scale = max(self.scale, size)
        self.diagonal.append(float(vector @ image))
        image = self.basis.project_out(image)
        self.residual = float(image.norm())
        # What rounding leaves of a vector inside the space is no direction.
        if self.residual <= 10 * torch.finfo(vector.dtype).eps * self.scale or self.basis.count == len(vector):
            self.residual = 0.0
        else:
            self.next = image / self.residual

    def restart(self, generator: torch.Generator) -> None:
        """Go on with a random vector outside an invariant space that is not the whole one."""
        length = 0.0
        while length < 1e-3:  # the start may have come from the same seed
            fresh = torch.randn(len(self.next), generator=generator, dtype=torch.float64).to(self.next)
            outside = self.basis.project_out(fresh / fresh.norm())
            length = float(outside.norm())
        self.next = outside / length

    def solve(self) -> tuple[Array, Array]:
        """Ritz values in rising order ``(m,)`` and coefficients of the vectors in the basis, as columns ``(m, m)``."""
        diagonal, off_diagonal = np.array(self.diagonal), np.array(self.off_diagonal)
        values, vectors = eigh_tridiagonal(diagonal, off_diagonal)
        return values, vectors


def lanczos(matvec: MatVec, start: Tensor, steps: int) -> Tridiagonal:
    """Reduce a symmetric operator to tridiagonal form on the Krylov space of a vector.

    Every new vector is made orthogonal to all earlier ones, twice. It stops early, without an error, where the space is
    invariant: after as many steps as the start vector has different eigenvalues in it.

    Args:
        matvec: product of the operator with a vector ``(D,)``.
        start: any vector but zero, shape ``(D,)``; its dtype and device are those of the basis.
        steps: most products, at least 1.

    Returns:
        Coefficients in float64, and the basis.

    Raises:
        ValueError: if there are no steps, or the start is zero, or a product is not finite.
    """
    if steps < 1:
        raise ValueError(f"steps={steps} must be at least 1.")
    process = _Process(matvec, start)
    for _ in range(steps):
        process.step()
        if process.residual == 0:
            break
    basis = torch.cat(list(process.basis.rows()))
    return Tridiagonal(np.array(process.diagonal), np.array(process.off_diagonal), basis, process.residual)


def eigenpairs(
    matvec: MatVec,
    start: Tensor,
    top: int = 2,
    bottom: int = 0,
    tolerance: float = 1e-3,
    max_steps: int = 200,
    seed: int = 0,
) -> Eigenpairs:
    """Largest and smallest eigenvalues with their vectors.

    It stops as soon as the estimated error of each wanted value, ``min(r, r^2 / gap)`` with the residual norm r and
    the distance to the next Ritz value, and its change in the last step, are below the tolerance. In an invariant space
    that has fewer values it goes on with a random vector outside of it. An eigenvalue that occurs several times may be
    counted once, which is in the nature of Krylov spaces.

    Args:
        matvec: product of the operator with a vector ``(D,)``.
        start: a random vector, shape ``(D,)``.
        top: number of largest eigenvalues.
        bottom: number of smallest eigenvalues.
        tolerance: wanted error, relative to each eigenvalue.
        max_steps: most products; what has not converged then is returned with its error.
        seed: of vectors outside an invariant space.

    Returns:
        The pairs and their errors.

    Raises:
        ValueError: if more eigenvalues are wanted than there are.
    """
    if min(top, bottom) < 0 or not 1 <= top + bottom <= len(start):
        raise ValueError(f"top={top}, bottom={bottom}: between 1 and {len(start)} eigenvalues in all can be asked for.")
    process, steps, before = _Process(matvec, start), 0, np.empty(0)
    generator = torch.Generator().manual_seed(seed)
    while True:
        process.step()
        steps += 1
        values, coefficients = process.solve()
        chosen = np.r_[np.arange(len(values))[::-1][:top], np.arange(len(values))[:bottom]]
        errors = _errors(values, process.residual * np.abs(coefficients[-1]))
        if steps >= top + bottom:
            wanted = values[chosen]
            # A value of zero has no relative error; the operator's own rounding is the finest that can be asked for.
            allowed = np.maximum(tolerance * np.abs(wanted), torch.finfo(start.dtype).eps * process.scale)
            settled = len(before) == len(wanted) and (np.abs(wanted - before) <= allowed).all()
            if steps >= max_steps or process.basis.count == len(start) or process.residual == 0:
                break
            if settled and (errors[chosen] <= allowed).all():
                break
            before = wanted
        if process.residual == 0:
            process.restart(generator)
    vectors = process.basis.combine(coefficients[:, chosen].T)
    vectors = vectors / vectors.norm(dim=1, keepdim=True)
    largest = vectors.gather(1, vectors.abs().argmax(dim=1, keepdim=True))
    vectors = vectors * largest.sign()
    values, errors = values[chosen], errors[chosen]
    return Eigenpairs(values[:top], values[top:], vectors[:top], vectors[top:], errors[:top], errors[top:], steps)


def _errors(values: Array, residuals: Array) -> Array:
    """Estimated error of each Ritz value ``(m,)`` from its residual norm."""
    if len(values) == 1:
        return residuals
    steps = np.diff(values)
    gaps = np.minimum(np.r_[np.inf, steps], np.r_[steps, np.inf])
    return np.minimum(residuals, residuals**2 / np.maximum(gaps, np.finfo(np.float64).tiny))
