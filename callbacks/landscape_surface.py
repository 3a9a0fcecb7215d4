"""A loss landscape as arrays, and the arrays as an ``.npz``."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Surface", "read_surface", "write_surface"]

Array = NDArray[np.float64]


class Surface(NamedTuple):
    """Losses on a plane, or on a line, and a path beside it."""

    x: Array
    """Coordinates along the first direction, ``(X,)``."""
    y: Array
    """Coordinates along the second direction, ``(Y,)``; one zero for a line."""
    losses: Array
    """Shape ``(Y, X)``."""
    centre_loss: float
    axis_labels: list[str]
    path: Array
    """Coordinates of the path or of other minima, ``(T, k)``; T may be 0."""
    path_losses: Array
    """True losses of its points, off the plane, ``(T,)``."""
    projected_losses: Array
    """Losses of their projections onto the plane, ``(T,)``."""
    path_distances: Array
    """Distances to the plane, ``(T,)``."""
    path_epochs: Array
    path_labels: list[str]
    connected: bool
    """Whether the points are a path."""
    title: str

    @property
    def is_line(self) -> bool:
        """Whether there is one direction only."""
        return len(self.y) == 1


def write_surface(file: Path, surface: Surface, **further: Any) -> Path:
    """Write all arrays, and further ones, without pickles."""
    arrays: dict[str, Any] = {key: np.asarray(value) for key, value in surface._asdict().items()}
    file.parent.mkdir(parents=True, exist_ok=True)
    np.savez(file, **(arrays | further))
    return file


def read_surface(file: Path) -> Surface:
    """Read what :func:`write_surface` wrote."""
    with np.load(file, allow_pickle=False) as arrays:
        content: dict[str, Any] = {key: arrays[key] for key in Surface._fields}
    for key in ("axis_labels", "path_labels"):
        content[key] = content[key].tolist()
    for key in ("centre_loss", "connected", "title"):
        content[key] = content[key].item()
    return Surface(**content)
