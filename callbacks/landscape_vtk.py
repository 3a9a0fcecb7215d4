"""Landscape and path as VTK XML files, which ParaView opens; no VTK needed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from callbacks.landscape_surface import Surface

__all__ = ["write_vti", "write_vtp"]

Array = NDArray[np.float64]


def write_vti(file: Path, surface: Surface) -> Path:
    """Write the grid as ImageData with ``loss`` and ``log10_loss`` at its points.

    "Warp by Scalar" in ParaView makes the surface of it. What is not finite is written as ``nan``.

    Args:
        file: to write.
        surface: evenly spaced, as all landscapes here.

    Returns:
        The file.
    """
    width, height = len(surface.x), len(surface.y)
    spacing = [_step(surface.x), _step(surface.y), 1.0]
    logarithm = np.log10(np.maximum(surface.losses, 1e-12))
    text = (
        '<?xml version="1.0"?>\n'
        '<VTKFile type="ImageData" version="1.0" byte_order="LittleEndian">\n'
        f'<ImageData WholeExtent="0 {width - 1} 0 {height - 1} 0 0" Origin="{surface.x[0]:.9g} {surface.y[0]:.9g} 0" '
        f'Spacing="{_row(np.array(spacing))}">\n'
        f'<Piece Extent="0 {width - 1} 0 {height - 1} 0 0">\n<PointData Scalars="loss">\n'
        f"{_array('loss', surface.losses)}{_array('log10_loss', logarithm)}"
        "</PointData>\n</Piece>\n</ImageData>\n</VTKFile>\n"
    )
    file.write_text(text, encoding="utf-8")
    return file


def write_vtp(file: Path, surface: Surface) -> Path:
    """Write the path as PolyData: points at their true losses, a line if they are connected.

    Args:
        file: to write.
        surface: with a path of at least one point.

    Returns:
        The file.
    """
    count = len(surface.path)
    places = np.zeros((count, 3))
    places[:, : surface.path.shape[1]] = surface.path
    places[:, 2] = surface.path_losses
    lines = 1 if surface.connected else 0
    order = np.arange(count)
    cells = (
        f"<Lines>\n{_array('connectivity', order)}{_array('offsets', np.array([count]))}</Lines>\n"
        if lines
        else f"<Verts>\n{_array('connectivity', order)}{_array('offsets', order + 1)}</Verts>\n"
    )
    points = _array("points", places).replace('Name="points"', 'Name="points" NumberOfComponents="3"')
    text = (
        '<?xml version="1.0"?>\n'
        '<VTKFile type="PolyData" version="1.0" byte_order="LittleEndian">\n<PolyData>\n'
        f'<Piece NumberOfPoints="{count}" NumberOfVerts="{0 if lines else count}" NumberOfLines="{lines}" '
        'NumberOfStrips="0" NumberOfPolys="0">\n'
        f'<PointData Scalars="loss">\n{_array("loss", surface.path_losses)}'
        f"{_array('projected_loss', surface.projected_losses)}{_array('distance_to_plane', surface.path_distances)}"
        f"{_array('epoch', surface.path_epochs)}</PointData>\n"
        f"<Points>\n{points}</Points>\n{cells}</Piece>\n</PolyData>\n</VTKFile>\n"
    )
    file.write_text(text, encoding="utf-8")
    return file


def _array(name: str, values: NDArray[np.generic]) -> str:
    kind = "Int64" if np.issubdtype(values.dtype, np.integer) else "Float64"
    return f'<DataArray type="{kind}" Name="{name}" format="ascii">\n{_row(values.ravel())}\n</DataArray>\n'


def _row(values: NDArray[np.generic]) -> str:
    return " ".join(f"{value:.9g}" if isinstance(value, float) else str(value) for value in values.tolist())


def _step(axis: Array) -> float:
    return float(axis[1] - axis[0]) if len(axis) > 1 else 1.0
