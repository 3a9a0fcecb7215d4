"""Principal components of paths against the SVD, the law of the random walk, and gradient descent on a quadratic."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch

from functional.trajectory import plane_coordinates, trajectory_plane


@pytest.mark.parametrize("reference", ["last", "mean"])
def test_directions_are_those_of_the_svd(reference):
    path = np.random.default_rng(0).standard_normal((12, 700)).cumsum(axis=0)
    plane = trajectory_plane(path, reference, components=(1, 2, 3), block=64)
    offsets = path - (path[-1] if reference == "last" else path.mean(axis=0))
    _, values, vectors = np.linalg.svd(offsets, full_matrices=False)
    cosines = np.abs((plane.directions.numpy() * vectors[:3]).sum(axis=1))
    assert (cosines >= 1 - 1e-6).all()
    np.testing.assert_allclose(plane.explained[: len(values)], values**2 / (values**2).sum(), atol=1e-12)
    largest = plane.directions.gather(1, plane.directions.abs().argmax(dim=1, keepdim=True))
    assert (largest > 0).all()


def test_other_components_can_be_asked_for():
    path = torch.randn(9, 300, generator=torch.Generator().manual_seed(0)).cumsum(dim=0)
    first = trajectory_plane(path, components=(1, 2, 3)).directions
    torch.testing.assert_close(trajectory_plane(path, components=(3, 1)).directions, first[[2, 0]])


@pytest.mark.parametrize(
    ("reference", "law"),
    [("mean", [6 / (np.pi * k) ** 2 for k in (1, 2, 3)]), ("last", [2 / ((k - 0.5) * np.pi) ** 2 for k in (1, 2, 3)])],
)
def test_explained_shares_of_a_random_walk(reference, law):
    """Known in the limit (Antognini and Sohl-Dickstein 2018); no result that is put in by hand would follow it."""
    generator = torch.Generator().manual_seed(1)
    path = torch.randn(400, 20_000, generator=generator).cumsum(dim=0)
    explained = trajectory_plane(path, reference).explained
    assert explained[0] == pytest.approx(law[0], abs=0.012)
    np.testing.assert_allclose(explained[1:3], law[1:], atol=0.006)


def test_gradient_descent_on_a_quadratic_stays_in_the_span_of_two_eigenvectors():
    rng = np.random.default_rng(0)
    basis, _ = np.linalg.qr(rng.standard_normal((60, 2)))
    point, path = 5 * basis[:, 0] - 3 * basis[:, 1], []
    for _ in range(40):
        path.append(point)
        point = point - 0.1 * basis @ (np.array([3.0, 0.5]) * (basis.T @ point))
    plane = trajectory_plane(np.array(path))
    _, distances = plane_coordinates(np.array(path), path[-1], plane.directions)
    assert distances.max() < 1e-6
    assert np.linalg.norm(basis.T @ plane.directions.numpy().T, axis=0) == pytest.approx([1, 1])
    with pytest.raises(ValueError, match="spreads in 2 directions only"):
        trajectory_plane(np.array(path), components=(1, 3))


def test_a_long_path_of_many_parameters_needs_little_memory(tmp_path):
    """Fifty snapshots of a million parameters, 200 MB on disk."""
    rng = np.random.default_rng(0)
    path = np.memmap(tmp_path / "path", dtype=np.float32, mode="w+", shape=(50, 1_000_000))
    directions = rng.standard_normal((2, 1_000_000)).astype(np.float32)
    for row in range(50):
        path[row] = row * directions[0] + (row % 7) * directions[1]
    tracemalloc.start()
    plane = trajectory_plane(path, block=1 << 14)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40e6
    assert plane.explained[:2].sum() == pytest.approx(1)
    assert plane.directions.norm(dim=1).numpy() == pytest.approx([1, 1])


def test_coordinates_in_a_basis_that_is_not_orthogonal():
    directions = np.array([[1.0, 0, 0, 0], [1, 2, 0, 0]])
    centre = np.array([1.0, 1, 1, 1])
    path = centre + np.array([[2.0, -0.5]]) @ directions + np.array([[0, 0, 3.0, 4.0]])
    coordinates, distances = plane_coordinates(path, centre, directions, block=3)
    np.testing.assert_allclose(coordinates, [[2, -0.5]])
    np.testing.assert_allclose(distances, [5])
    with pytest.raises(ValueError, match="not linearly independent"):
        plane_coordinates(path, centre, directions[[0, 0]])


def test_components_are_counted_from_one():
    with pytest.raises(ValueError, match="counted from 1"):
        trajectory_plane(np.eye(3), components=(0, 1))
