"""Directions and grids against closed forms, invariances, and the LeNet of the comparison."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from curvature_data import Bowl, LeNet, cross_entropy, synthetic_images, train
from torch import nn

from functional.landscape import (
    grid_axis,
    grid_losses,
    mean_loss,
    normalize_direction,
    random_direction,
)
from functional.parameter_vectors import flatten, random_vector, split_like
from functional.trajectory import plane_coordinates, trajectory_plane


def grid(points: int = 11, reach: float = 1.0) -> np.ndarray:
    axis = grid_axis(-reach, reach, points)
    return np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)


def test_grid_of_the_bowl_is_its_closed_form_along_unnormalised_directions():
    bowl = Bowl()
    parameters = list(bowl.parameters())
    directions = torch.stack([3 * random_vector(50, 0, index) for index in range(2)])
    centre = flatten(parameters)
    points = grid()
    found = dict(grid_losses(lambda: mean_loss(bowl.objective, [torch.zeros(1)]), parameters, directions, points))
    expected = [float(bowl.value(centre + torch.from_numpy(point) @ directions)) for point in points]
    np.testing.assert_allclose([found[index] for index in range(121)], expected, rtol=1e-6)
    assert torch.equal(flatten(parameters), centre)


def test_points_do_not_depend_on_their_order_or_company():
    bowl = Bowl(dtype=torch.float32)
    parameters = list(bowl.parameters())
    directions = torch.stack([random_vector(50, 0, index) for index in range(2)])
    points = grid(7)

    def run(indices):
        return dict(grid_losses(lambda: float(bowl.objective(None).detach()), parameters, directions, points, indices))

    whole = run(None)
    shares = run(range(1, 49, 2)) | run(reversed(range(0, 49, 2)))
    assert whole == shares
    assert len(whole) == 49


def test_parameters_come_back_when_the_grid_is_left_early():
    bowl = Bowl()
    parameters = list(bowl.parameters())
    before = flatten(parameters)
    steps = grid_losses(lambda: 0.0, parameters, random_vector(50, 0)[None], np.array([[1.0], [2.0]]))
    next(steps)
    assert not torch.equal(flatten(parameters), before)
    steps.close()
    assert torch.equal(flatten(parameters), before)
    with pytest.raises(ValueError, match=r"needed are \(k, D\) and \(P, k\)"):
        next(grid_losses(lambda: 0.0, parameters, random_vector(50, 0), np.zeros((1, 2))))


def test_filters_have_the_norms_of_the_parameters():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ConvTranspose2d(4, 5, 2), nn.Linear(2, 3))
    parameters = list(network.parameters())
    axes = [1 if parameter is network[2].weight else 0 for parameter in parameters]
    direction = random_direction(parameters, seed=0, normalize="filter", output_axes=axes)
    for part, parameter, axis in zip(split_like(direction, parameters), parameters, axes, strict=True):
        if parameter.ndim == 1:
            assert not part.any()
        else:
            norms = [tensor.detach().double().movedim(axis, 0).flatten(1).norm(dim=1) for tensor in (part, parameter)]
            torch.testing.assert_close(*norms, rtol=1e-6, atol=0)
    layers = split_like(normalize_direction(direction, parameters, "layer"), parameters)
    assert layers[0].norm() == pytest.approx(float(parameters[0].detach().norm()))
    model = normalize_direction(direction, parameters, "model")
    assert model.norm() == pytest.approx(float(flatten(parameters).norm()))
    assert torch.equal(normalize_direction(direction, parameters, "none"), direction)
    with pytest.raises(ValueError, match="normalize='filters'"):
        normalize_direction(direction, parameters, "filters")


def test_zero_filters_give_zero_directions():
    weight = nn.Parameter(torch.ones(2, 3))
    with torch.no_grad():
        weight[0] = 0
    direction = random_direction([weight], 0)
    assert not direction[:3].any()
    assert direction.isfinite().all()
    for normalize in ("filter", "layer", "model"):
        assert not normalize_direction(torch.zeros(6), [weight], normalize).any()


def test_filter_normalised_surface_does_not_see_a_rescaling_of_the_network():
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(30, 4, generator=generator), torch.randn(30, 1, generator=generator)
    weights = [torch.randn(8, 4, generator=generator), torch.randn(1, 8, generator=generator)]
    surfaces = {}
    for scale in (1.0, 7.0):
        parameters = [nn.Parameter(scale * weights[0]), nn.Parameter(weights[1] / scale)]

        def loss(batch, parameters=parameters):
            return F.mse_loss(F.relu(x @ parameters[0].T) @ parameters[1].T, y)

        for normalize in ("filter", "none"):
            directions = torch.stack([random_direction(parameters, 0, index, normalize) for index in range(2)])
            values = grid_losses(lambda loss=loss: mean_loss(loss, [x]), parameters, directions, grid(5))
            surfaces[normalize, scale] = np.array([value for _, value in values])
    np.testing.assert_allclose(surfaces["filter", 7.0], surfaces["filter", 1.0], rtol=1e-5)
    assert np.abs(surfaces["none", 7.0] / surfaces["none", 1.0] - 1).max() > 0.1


def test_mean_loss_weighs_batches_by_their_samples_and_repeats_random_numbers():
    values = torch.arange(10.0)
    assert mean_loss(lambda batch: batch.mean(), values.split(4)) == pytest.approx(4.5)
    assert mean_loss(lambda batch: batch.mean(), values.split(4), [1, 1, 2]) == pytest.approx((1.5 + 5.5 + 17) / 4)
    state = torch.get_rng_state()
    first, second = (mean_loss(lambda batch: torch.rand(()) + 0 * batch.sum(), values.split(4)) for _ in range(2))
    assert first == second
    assert torch.equal(torch.get_rng_state(), state)
    with pytest.raises(ValueError, match="no batches"):
        mean_loss(lambda batch: batch.mean(), [])


def test_axes_contain_zero():
    for low, high, points in ((-1, 1, 11), (-0.3, 2.0, 25), (-5, 0.01, 8), (0, 3, 4)):
        axis = grid_axis(low, high, points)
        assert 0 in axis
        assert len(axis) == points
        np.testing.assert_allclose(np.diff(axis), (high - low) / (points - 1))
        assert abs(axis[0] - low) <= 0.51 * (high - low) / (points - 1)
    np.testing.assert_allclose(grid_axis(1, 2, 3), [1, 1.5, 2])
    with pytest.raises(ValueError, match="points=1"):
        grid_axis(0, 1, 1)


@pytest.fixture(scope="module")
def lenet():
    batches = synthetic_images(2000, 250)
    return *train(LeNet, 8, batches), batches


def test_the_path_of_the_lenet_lies_in_its_plane_and_the_centre_is_the_true_loss(lenet):
    network, snapshots, batches = lenet
    path = torch.stack(snapshots)
    plane = trajectory_plane(path)
    assert plane.explained[0] >= 0.97
    coordinates, distances = plane_coordinates(path, path[-1], plane.directions)
    spread = (path - path[-1]).double().norm(dim=1).square()
    assert 1 - (distances**2).sum() / float(spread.sum()) >= 0.99
    np.testing.assert_allclose(coordinates[-1], 0, atol=1e-9)
    parameters, loss = list(network.parameters()), cross_entropy(network)
    axis = grid_axis(coordinates[:, 0].min(), coordinates[:, 0].max(), 4)
    points = np.stack([axis, np.zeros(4)], axis=1)
    found = dict(grid_losses(lambda: mean_loss(loss, batches), parameters, plane.directions, points))
    centre = int(np.flatnonzero(axis == 0)[0])
    assert found[centre] == pytest.approx(mean_loss(loss, batches), rel=1e-6)
    assert found[centre] == pytest.approx(np.mean([float(loss(batch).detach()) for batch in batches]), rel=1e-6)
    assert found[centre] < min(value for index, value in found.items() if index != centre)
