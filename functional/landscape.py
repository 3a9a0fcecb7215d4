"""The loss on lines and planes through parameter space.

Points are visited by in-place updates of one copy of the parameters; each is computed from the centre, so that its loss
does not depend on the order of the points or on the process that evaluates it. Sources: Chatzimichailidis et al. 2019
(GradVis), Sec. 2; Li et al. 2018 for filter normalisation.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from functional.parameter_vectors import batch_size, flatten, fork_seed, random_vector, split_like
from functional.trajectory import plane_coordinates, trajectory_plane

__all__ = [
    "Normalization",
    "grid_axis",
    "grid_losses",
    "mean_loss",
    "normalize_direction",
    "plane_coordinates",
    "random_direction",
    "trajectory_plane",
]

Array = NDArray[np.float64]
Normalization = Literal["none", "filter", "layer", "model"]


def random_direction(
    parameters: Sequence[Tensor],
    seed: int,
    index: int = 0,
    normalize: Normalization = "filter",
    output_axes: Sequence[int] | None = None,
) -> Tensor:
    """Normal random direction.

    Args:
        parameters: the point from which it leads.
        seed: of the direction, together with ``index``.
        index: number of the direction.
        normalize: see :func:`normalize_direction`.
        output_axes: see :func:`normalize_direction`.

    Returns:
        Float64 vector on the CPU, shape ``(D,)``.
    """
    size = sum(parameter.numel() for parameter in parameters)
    return normalize_direction(random_vector(size, seed, index), parameters, normalize, output_axes)


def normalize_direction(
    direction: Tensor,
    parameters: Sequence[Tensor],
    normalize: Normalization,
    output_axes: Sequence[int] | None = None,
) -> Tensor:
    """Scale a direction to the parameters.

    ``filter`` gives each output filter of a weight the norm of that filter in the parameters, and sets biases and the
    parameters of normalisation layers to zero; ``layer`` does so with whole tensors, ``model`` with the whole vector.
    Parts of the direction that are zero stay zero.

    Args:
        direction: shape ``(D,)``.
        parameters: the point from which it leads.
        normalize: ``none``, ``filter``, ``layer`` or ``model``.
        output_axes: axis of the output filters in each parameter; 0 by default.

    Returns:
        Float64 vector on the CPU, shape ``(D,)``.

    Raises:
        ValueError: if the normalisation has another name.
    """
    if normalize not in ("none", "filter", "layer", "model"):
        raise ValueError(f"normalize={normalize!r} is not one of none, filter, layer, model.")
    direction = direction.detach().cpu().double().clone()
    point = [parameter.detach().cpu().double() for parameter in parameters]
    if normalize == "none":
        return direction
    if normalize == "model":
        return direction * _ratio(flatten(point).norm(), direction.norm())
    axes = [0] * len(point) if output_axes is None else output_axes
    for part, parameter, axis in zip(split_like(direction, point), point, axes, strict=True):
        if normalize == "layer":
            part.mul_(_ratio(parameter.norm(), part.norm()))
        elif part.ndim <= 1:
            part.zero_()
        else:
            others = [dim for dim in range(part.ndim) if dim != axis]
            lengths = [torch.linalg.vector_norm(tensor, dim=others, keepdim=True) for tensor in (parameter, part)]
            part.mul_(_ratio(*lengths))
    return direction


def _ratio(wanted: Tensor, present: Tensor) -> Tensor:
    return torch.where(present > 0, wanted / present.clamp_min(torch.finfo(present.dtype).tiny), 0.0)


def grid_axis(low: float, high: float, points: int) -> Array:
    """Evenly spaced coordinates from about ``low`` to about ``high``, moved so that zero is one of them.

    Where the range does not contain zero, it is as given. So the centre of a landscape is always a grid point.

    Raises:
        ValueError: if there are fewer than two points, or the range is empty.
    """
    if points < 2 or not low < high:
        raise ValueError(f"points={points} must be at least 2, and the range {low} to {high} not empty.")
    if not low <= 0 <= high:
        return np.linspace(low, high, points, dtype=np.float64)
    step = (high - low) / (points - 1)
    return np.asarray(step * (np.arange(points) - round(-low / step)), np.float64)


def mean_loss(loss: Callable[[Any], Tensor], batches: Iterable[Any], counts: Sequence[int] | None = None) -> float:
    """Mean loss over all samples, without gradients.

    Args:
        loss: mean loss of a batch; random numbers that it draws are the same in every call.
        batches: the data.
        counts: samples of each batch; by default the length of the first tensor in it.

    Returns:
        Sum of the batches' losses in float64, weighted by their counts.

    Raises:
        ValueError: if there are no batches.
    """
    total, samples = torch.zeros((), dtype=torch.float64), 0
    with torch.inference_mode():
        for index, batch in enumerate(batches):
            count = batch_size(batch) if counts is None else counts[index]
            value = _seeded(loss, batch, index).double() * count
            total = value + total.to(value.device)
            samples += count
    if not samples:
        raise ValueError("There are no batches to take the mean loss of.")
    return float(total) / samples


def _seeded(loss: Callable[[Any], Tensor], batch: Any, index: int) -> Tensor:
    device = next((value.device for value in _values(batch) if isinstance(value, Tensor)), torch.device("cpu"))
    with fork_seed(index, device):
        return loss(batch)


def _values(batch: Any) -> Iterable[Any]:
    return batch.values() if isinstance(batch, dict) else batch if isinstance(batch, list | tuple) else [batch]


def grid_losses(
    evaluate: Callable[[], float],
    parameters: Sequence[Tensor],
    directions: Tensor,
    coordinates: Array,
    indices: Iterable[int] | None = None,
    centre: Tensor | None = None,
) -> Generator[tuple[int, float], None, None]:
    """Loss at points of a line or plane, one after the other.

    The parameters are written in place, ``centre + sum_k coordinate_k * direction_k``, and are as before, bit for bit,
    when the iterator ends or is closed.

    Args:
        evaluate: loss at the parameters' present values.
        parameters: of the network.
        directions: shape ``(k, D)``.
        coordinates: of all points, shape ``(P, k)``.
        indices: points to evaluate; all by default.
        centre: shape ``(D,)``; the parameters' present values by default.

    Yields:
        Index of a point, and its loss.
    """
    if directions.ndim != 2 or coordinates.ndim != 2 or directions.shape[0] != coordinates.shape[1]:
        raise ValueError(
            f"directions {tuple(directions.shape)} and coordinates {coordinates.shape}: needed are (k, D) and (P, k)."
        )
    kept = [parameter.detach().clone() for parameter in parameters]
    origin = kept if centre is None else _like(centre, parameters)
    moves = [_like(direction, parameters) for direction in directions]
    try:
        for index in range(len(coordinates)) if indices is None else indices:
            with torch.no_grad():
                for place, parameter in enumerate(parameters):
                    parameter.copy_(origin[place])
                    for move, factor in zip(moves, coordinates[index], strict=True):
                        parameter.add_(move[place], alpha=float(factor))
            yield index, evaluate()
    finally:
        with torch.no_grad():
            for parameter, values in zip(parameters, kept, strict=True):
                parameter.copy_(values)


def _like(vector: Tensor, parameters: Sequence[Tensor]) -> list[Tensor]:
    """Pieces of a vector with shape, dtype, device and memory layout of the parameters."""
    pieces = split_like(vector.detach(), parameters)
    return [
        torch.empty_like(parameter, requires_grad=False).copy_(piece)
        for piece, parameter in zip(pieces, parameters, strict=True)
    ]
