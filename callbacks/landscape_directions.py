"""The directions that span a landscape."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from callbacks.analysis import StillModule
from callbacks.snapshots import States
from functional.curvature import eigenpairs
from functional.landscape import Normalization, grid_axis, normalize_direction, random_direction
from functional.parameter_vectors import flatten, random_vector
from functional.trajectory import trajectory_plane

__all__ = ["Directions", "axes_around", "find_directions"]

Array = NDArray[np.float64]


class Directions(NamedTuple):
    """Vectors through parameter space, and what to call them."""

    vectors: Tensor
    """Float64 on the CPU, shape ``(k, D)``."""
    labels: list[str]


def find_directions(
    kind: str,
    still: StillModule,
    states: States | None,
    normalize: Normalization,
    seed: int,
    components: tuple[int, int],
) -> Directions:
    """Directions of one kind; a collective call.

    Args:
        kind: ``random``, ``pca``, ``hessian``, ``checkpoints``, or a file ``.npy`` of shape ``(1 or 2, D)``.
        still: the module at the centre.
        states: the path for ``pca``, the other minima for ``checkpoints``.
        normalize: how the vectors are scaled to the parameters.
        seed: of random vectors.
        components: principal components for ``pca``, counted from 1.

    Raises:
        ValueError: if the kind is none of these, or a file does not fit.
    """
    centre = flatten(still.parameters).cpu()
    if kind == "random":
        found = torch.stack([random_vector(len(centre), seed, index) for index in range(2)])
        labels = ["random direction 1", "random direction 2"]
        vectors = [random_direction(still.parameters, seed, index, normalize, still.output_axes) for index in range(2)]
        return Directions(torch.stack(vectors), labels)
    if kind == "hessian":
        operator = still.operator(shared=True)
        start = random_vector(operator.size, seed).to(still.parameters[0])
        pairs = eigenpairs(operator.matvec, start, top=2, tolerance=1e-2)
        found = pairs.top_vectors
        labels = [f"eigenvector {index + 1} (lambda = {value:.4g})" for index, value in enumerate(pairs.top)]
    elif kind == "pca" and states is not None:
        plane = trajectory_plane(states.parameters, components=components)
        found = plane.directions
        labels = [f"component {index} ({plane.explained[index - 1]:.1%})" for index in components]
    elif kind == "checkpoints" and states is not None:
        found, labels = _through(states, centre)
    elif kind.endswith(".npy") and Path(kind).is_file():
        found = torch.from_numpy(np.atleast_2d(np.load(kind, allow_pickle=False)).astype(np.float64))
        if found.ndim != 2 or len(found) > 2 or found.shape[1] != len(centre):
            raise ValueError(
                f"directions={kind}: the file holds an array {tuple(found.shape)}; needed are one or two vectors of "
                f"{len(centre)} entries."
            )
        labels = [f"{Path(kind).stem} {index + 1}" for index in range(len(found))]
    else:
        raise ValueError(f"directions={kind!r} is neither random, pca, hessian, checkpoints nor a file .npy.")
    vectors = [normalize_direction(vector, still.parameters, normalize, still.output_axes) for vector in found]
    return Directions(torch.stack(vectors), labels)


def axes_around(
    directions: Directions, coordinates: Array | None, points: int, span: float, margin: float
) -> tuple[Array, Array]:
    """Coordinates of the grid along one or two directions.

    Args:
        directions: of the landscape.
        coordinates: of a path that is to lie inside, ``(T, k)``; None if there is none.
        points: along each axis.
        span: how far the grid reaches to either side without a path, in units of the directions.
        margin: share of the path's range that is added on either side.

    Returns:
        Axes ``(X,)`` and ``(Y,)``; the second is a single zero for one direction.
    """
    if coordinates is None:
        ranges = [(-span, span)] * len(directions.vectors)
    else:
        low = np.minimum(coordinates.min(axis=0), 0)
        high = np.maximum(coordinates.max(axis=0), 0)
        width = high - low
        width = np.maximum(width, 0.25 * width.max())  # a path that hardly leaves an axis still gets a plane around it
        middle = (low + high) / 2
        reach = (0.5 + margin) * width
        ranges = [(float(m - r), float(m + r)) for m, r in zip(middle, reach, strict=True)]
    axes = [grid_axis(low, high, points) for low, high in ranges]
    return axes[0], axes[1] if len(axes) > 1 else np.zeros(1)


def _through(states: States, centre: Tensor) -> tuple[Tensor, list[str]]:
    """The line from the centre to one state, or the plane through the centre and several."""
    others = torch.as_tensor(np.asarray(states.parameters)).double()
    if len(others) == 1:
        if torch.equal(others[0], centre.double()):
            raise ValueError(f"checkpoints: {states.labels[0]} has the parameters of the centre; name another one.")
        return others - centre.double(), [f"from the centre (0) to {states.labels[0]} (1)"]
    rows = torch.cat([others, centre[None].double()])
    plane = trajectory_plane(rows)
    labels = [f"minima, direction {index + 1} ({plane.explained[index]:.1%})" for index in range(2)]
    return plane.directions, labels
