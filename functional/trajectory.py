"""The plane in which the path of a training run spreads most.

With T snapshots of D parameters the principal directions follow from a T x T eigenproblem (Chatzimichailidis et al.
2019, Sec. 2), whose matrix is summed up over blocks of parameters in float64; the T x D numbers are never held at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Path", "Plane", "plane_coordinates", "trajectory_plane"]

Array = NDArray[np.float64]
_BLOCK = 1 << 17


class Path(Protocol):
    """Snapshots as rows: a tensor, an array, or a memory map."""

    @property
    def shape(self) -> Any:
        """Number of snapshots and of parameters."""
        ...

    def __getitem__(self, item: Any) -> Any:
        """Columns ``[:, a:b]`` of all snapshots, or one snapshot ``[t]``."""
        ...


class Plane(NamedTuple):
    """Principal directions of a path."""

    directions: Tensor
    """Unit vectors, float64, shape ``(k, D)``; the entry of largest size is positive."""
    explained: Array
    """Share of the path's squared distances along every component, shape ``(T,)``, falling."""


def trajectory_plane(
    path: Path,
    reference: Literal["last", "mean"] = "last",
    components: Sequence[int] = (1, 2),
    block: int = _BLOCK,
) -> Plane:
    """Principal components of a path.

    Args:
        path: snapshots, shape ``(T, D)``.
        reference: what distances are measured from: the last snapshot, or the mean over time.
        components: which to return, counted from 1.
        block: parameters at a time; ``T * block`` numbers are held.

    Returns:
        Directions, and the explained shares of all components.

    Raises:
        ValueError: if the path does not spread in as many directions.
    """
    snapshots, size = path.shape
    if min(components, default=0) < 1:
        raise ValueError(f"components={components}: at least one, counted from 1.")
    gram = np.zeros((snapshots, snapshots))
    for offsets in _offsets(path, reference, size, block):
        gram += offsets @ offsets.T
    values, vectors = np.linalg.eigh(gram)
    values, vectors = np.maximum(values[::-1], 0), vectors[:, ::-1]
    spread = int((values > 1e-12 * max(values[0], np.finfo(float).tiny)).sum())
    if max(components) > spread:
        raise ValueError(
            f"components={tuple(components)}: the path of {snapshots} snapshots spreads in {spread} directions only; "
            "record more of them, or take other directions."
        )
    chosen = np.array(components) - 1
    directions = torch.empty(len(chosen), size, dtype=torch.float64)
    mixed = (vectors[:, chosen] / np.sqrt(values[chosen])).T
    for index, offsets in enumerate(_offsets(path, reference, size, block)):
        part = torch.from_numpy(mixed @ offsets)
        directions[:, index * block : index * block + part.shape[1]] = part
    largest = directions.gather(1, directions.abs().argmax(dim=1, keepdim=True))
    return Plane(directions * largest.sign(), values / values.sum())


def plane_coordinates(path: Path, centre: Any, directions: Any, block: int = _BLOCK) -> tuple[Array, Array]:
    """Where snapshots lie in a plane, and how far off it.

    Args:
        path: snapshots, shape ``(T, D)``.
        centre: origin of the plane, shape ``(D,)``.
        directions: linearly independent vectors, orthogonal or not, shape ``(k, D)``.
        block: parameters at a time.

    Returns:
        Coefficients of the directions by least squares, ``(T, k)``, and distances to the plane, ``(T,)``.

    Raises:
        ValueError: if the directions are not linearly independent.
    """
    snapshots, size = path.shape
    count = len(directions)
    products, inner = np.zeros((count, snapshots)), np.zeros((count, count))
    starts = range(0, size, block)
    for start in starts:
        part = _numbers(directions[:, start : start + block])
        offsets = _numbers(path[:, start : start + block]) - _numbers(centre[start : start + block])
        products += part @ offsets.T
        inner += part @ part.T
    lengths = np.sqrt(np.diag(inner))
    if not (lengths > 0).all() or np.linalg.cond(inner / np.outer(lengths, lengths)) > 1e12:
        raise ValueError("The directions of the plane are not linearly independent.")
    coordinates = np.linalg.solve(inner, products).T
    square = np.zeros(snapshots)
    for start in starts:
        offsets = _numbers(path[:, start : start + block]) - _numbers(centre[start : start + block])
        square += ((offsets - coordinates @ _numbers(directions[:, start : start + block])) ** 2).sum(axis=1)
    return np.asarray(coordinates, np.float64), np.sqrt(square)


def _offsets(path: Path, reference: str, size: int, block: int) -> Any:
    for start in range(0, size, block):
        part = _numbers(path[:, start : start + block])
        yield part - (part[-1] if reference == "last" else part.mean(axis=0))


def _numbers(part: Any) -> Array:
    if isinstance(part, Tensor):
        return part.detach().cpu().double().numpy()
    return np.asarray(part, dtype=np.float64)
