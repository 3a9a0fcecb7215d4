"""A Cholesky factor that grows by rows.

A Gaussian process whose kernel stays as it is gains one row and column of its covariance per observation, so its
factor need not be computed anew: ``L q = p`` for the covariances ``p`` with what is there, then
``d = sqrt(c - q q)`` gives the new row ``(q, d)``, in n^2 operations.

Source: Ram et al. 2019, Scaling Lazy Gaussian Processes, Sec. 3. Packed storage, blocks and rollback are ours.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cholesky, solve_triangular
from scipy.linalg.blas import dtpsv

__all__ = ["GrowingCholesky"]

Array = NDArray[np.float64]
_PANEL = 64  # rows that are unpacked together when there are several right-hand sides
_LEAST = 1e-12  # of the diagonal: what is left of a row that others explain, such as a duplicate without noise


class GrowingCholesky:
    """Lower triangular factor of a positive definite matrix, float64, rows packed one after the other.

    A row is appended where the last one ends: nothing is copied, and the solve reads memory in order. Rows from n on
    may be dropped at no cost. Where rounding (duplicates without noise) leaves nothing positive on the diagonal, a
    jitter of 1e-12 of it does.

    Args:
        capacity: rows to have room for; it doubles by need.
    """

    def __init__(self, capacity: int = 64) -> None:
        self.packed: Array = np.empty(max(1, capacity) * (max(1, capacity) + 1) // 2)
        self.size = 0

    def append(self, covariances: Array, variance: float) -> Array:
        """Append one row.

        Args:
            covariances: of the new point with those that are there, shape ``(n,)``.
            variance: of the new point, noise included.

        Returns:
            The new row without its diagonal, shape ``(n,)``: a view.

        Raises:
            ValueError: if the shapes do not fit or a number is not finite.
        """
        n = self.size
        if covariances.shape != (n,):
            raise ValueError(f"covariances have shape {covariances.shape}; the factor has {n} rows.")
        self._reserve(n + 1)
        start = n * (n + 1) // 2
        row = self.packed[start : start + n + 1]
        row[:n] = covariances
        rest = variance
        if n:  # packed rows of L are packed columns of its transpose, which is upper triangular
            row[:n] = dtpsv(n, self.packed[:start], row[:n], trans=1, overwrite_x=1)
            rest = variance - float(row[:n] @ row[:n])
        if not math.isfinite(rest):
            raise ValueError("A covariance is not finite.")
        row[n] = math.sqrt(max(rest, _LEAST * variance))
        self.size = n + 1
        return row[:n]

    def append_block(self, covariances: Array, block: Array) -> Array:
        """Append several rows at once: one pass over the factor for all of them.

        Args:
            covariances: with the points that are there, shape ``(n, t)``.
            block: covariances of the new points among themselves, noise included, shape ``(t, t)``.

        Returns:
            ``L^-1 covariances``, shape ``(n, t)``.

        Raises:
            ValueError: if the shapes do not fit or a number is not finite.
        """
        n, t = covariances.shape
        if n != self.size or block.shape != (t, t):
            raise ValueError(f"Shapes {covariances.shape} and {block.shape}; the factor has {n} rows.")
        solved = self.solve_lower(covariances)
        rest = block - solved.T @ solved
        if not np.isfinite(rest).all():
            raise ValueError("A covariance is not finite.")
        try:
            corner = cholesky(rest, lower=True, check_finite=False)
        except np.linalg.LinAlgError:  # duplicates: row by row, with jitter where it is needed
            for column in range(t):
                self.append(np.concatenate([covariances[:, column], block[:column, column]]), block[column, column])
            return solved
        self._reserve(n + t)
        for column in range(t):
            start = (n + column) * (n + column + 1) // 2
            self.packed[start : start + n] = solved[:, column]
            self.packed[start + n : start + n + column + 1] = corner[column, : column + 1]
        self.size = n + t
        return solved

    def truncate(self, size: int) -> None:
        """Drop the rows from ``size`` on.

        Raises:
            ValueError: if there are fewer.
        """
        if not 0 <= size <= self.size:
            raise ValueError(f"size={size}: the factor has {self.size} rows.")
        self.size = size

    def solve_lower(self, right: Array) -> Array:
        """``L^-1 right`` for ``(n,)`` or ``(n, m)``."""
        return self._solve(right, False)

    def solve_upper(self, right: Array) -> Array:
        """``L^-T right`` for ``(n,)`` or ``(n, m)``."""
        return self._solve(right, True)

    def dense(self) -> Array:
        """The factor as a square array, shape ``(n, n)``."""
        full = np.zeros((self.size, self.size))
        full[np.tril_indices(self.size)] = self.packed[: self.size * (self.size + 1) // 2]
        return full

    def diagonal(self) -> Array:
        """Diagonal of the factor, shape ``(n,)``."""
        rows = np.arange(1, self.size + 1)
        return self.packed[rows * (rows + 1) // 2 - 1]

    def log_determinant(self) -> float:
        """Of the matrix, not of its factor."""
        return 2 * float(np.log(self.diagonal()).sum())

    def _solve(self, right: Array, upper: bool) -> Array:
        n = self.size
        if len(right) != n:
            raise ValueError(f"right has {len(right)} rows, the factor {n}.")
        if n == 0 or right.size == 0:
            return np.array(right, dtype=np.float64)
        used = self.packed[: n * (n + 1) // 2]
        if right.ndim == 1:
            return dtpsv(n, used, right, trans=0 if upper else 1)
        if right.shape[1] <= 8:
            return np.stack([dtpsv(n, used, column, trans=0 if upper else 1) for column in right.T], axis=1)
        return self._solve_panels(right, upper)

    def _solve_panels(self, right: Array, upper: bool) -> Array:
        """Solve for many right-hand sides: the factor is read once, by matrix products."""
        result = np.array(right, dtype=np.float64)
        firsts = range(0, self.size, _PANEL)
        for first in reversed(firsts) if upper else firsts:
            last = min(first + _PANEL, self.size)
            panel = np.zeros((last - first, last))
            for row in range(first, last):
                start = row * (row + 1) // 2
                panel[row - first, : row + 1] = self.packed[start : start + row + 1]
            corner, before = panel[:, first:], panel[:, :first]
            if not upper:
                result[first:last] -= before @ result[:first]
            result[first:last] = solve_triangular(
                corner, result[first:last], lower=True, trans=1 if upper else 0, check_finite=False
            )
            if upper:
                result[:first] -= before.T @ result[first:last]
        return result

    def _reserve(self, size: int) -> None:
        needed = size * (size + 1) // 2
        if needed > len(self.packed):
            grown = np.empty(2 * needed)
            used = self.size * (self.size + 1) // 2
            grown[:used] = self.packed[:used]
            self.packed = grown
