"""Trace, moments and density of a small network's Hessian against its dense eigenvalues."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from functional.curvature import HessianOperator, eigenpairs
from functional.parameter_vectors import random_vector
from functional.spectral_density import (
    Quadrature,
    hutchinson_trace,
    negative_mass,
    spectral_density,
    stochastic_lanczos,
)


@pytest.fixture(scope="module")
def trained():
    """A tanh network of 145 parameters after 300 full-batch steps, as an operator, and its dense Hessian."""
    generator = torch.Generator().manual_seed(0)
    network = nn.Sequential(nn.Linear(8, 10), nn.Tanh(), nn.Linear(10, 5)).double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    x = torch.randn(200, 8, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 5, (200,), generator=generator)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.3)
    for _ in range(300):
        optimizer.zero_grad()
        F.cross_entropy(network(x), labels).backward()
        optimizer.step()
    operator = HessianOperator(
        lambda batch: F.cross_entropy(network(batch[0]), batch[1]),
        list(network.parameters()),
        [(x, labels)],
        keep_graphs=True,
    )
    dense = torch.stack([operator @ row for row in torch.eye(145, dtype=torch.float64)])
    names = [name for name, _ in network.named_parameters()]
    shapes = [parameter.shape for parameter in network.parameters()]

    def loss(vector: torch.Tensor) -> torch.Tensor:
        pieces = [p.view(s) for p, s in zip(vector.split([s.numel() for s in shapes]), shapes, strict=True)]
        return F.cross_entropy(torch.func.functional_call(network, dict(zip(names, pieces, strict=True)), (x,)), labels)

    point = nn.utils.parameters_to_vector(network.parameters()).detach()
    torch.testing.assert_close(dense, torch.autograd.functional.hessian(loss, point), atol=1e-9, rtol=1e-7)
    return operator, np.linalg.eigvalsh(dense.numpy())


def test_twenty_steps_find_the_outermost_eigenvalues(trained):
    operator, values = trained
    found = eigenpairs(operator.matvec, random_vector(145, 0), top=1, bottom=1, tolerance=1e-7, max_steps=40)
    assert found.top[0] == pytest.approx(values[-1], rel=1e-6)
    assert found.bottom[0] == pytest.approx(values[0], rel=1e-4)


@pytest.mark.parametrize(("repeats", "first", "second"), [(10, 0.12, 0.20), (100, 0.07, 0.10)])
def test_moments_and_density(trained, repeats, first, second):
    operator, values = trained
    found = stochastic_lanczos(operator.matvec, 145, steps=40 if repeats == 10 else 12, repeats=repeats)
    assert (found.weights >= 0).all()
    np.testing.assert_allclose(found.weights.sum(axis=1), 1)
    assert found.moment(1) == pytest.approx(values.mean(), rel=first)
    assert found.moment(2) == pytest.approx((values**2).mean(), rel=second)
    density = spectral_density(found, sigma=0.02)
    assert np.trapezoid(density.density, density.at) == pytest.approx(1, abs=1e-3)
    if repeats == 10:
        truth = spectral_density(Quadrature(values[None], np.full((1, 145), 1 / 145)), sigma=0.02, at=density.at)
        assert np.trapezoid(np.abs(truth.density - density.density), density.at) <= 0.15
    assert negative_mass(found) == pytest.approx((values < 0).mean(), abs=0.1)


def test_trace_lies_within_four_standard_errors(trained):
    operator, values = trained
    trace, error = hutchinson_trace(operator.matvec, 145, probes=100, like=torch.zeros((), dtype=torch.float64))
    assert 0 < error < 0.1 * abs(values.sum())
    assert abs(trace - values.sum()) < 4 * error


def test_random_signs_give_the_trace_of_a_diagonal_exactly():
    diagonal = torch.arange(10, dtype=torch.float64)
    trace, error = hutchinson_trace(lambda vector: diagonal * vector, 10, probes=3)
    assert (trace, error) == (45.0, 0.0)
    with pytest.raises(ValueError, match="probes=0"):
        hutchinson_trace(lambda vector: vector, 10, probes=0)


def test_repeats_shared_by_processes_are_those_of_one(trained):
    operator, _ = trained
    whole = stochastic_lanczos(operator.matvec, 145, steps=8, repeats=4)
    shares = [stochastic_lanczos(operator.matvec, 145, steps=8, repeats=range(rank, 4, 2)) for rank in range(2)]
    for rank, share in enumerate(shares):
        assert np.array_equal(whole.nodes[rank::2], share.nodes)
        assert np.array_equal(whole.weights[rank::2], share.weights)


def test_a_run_that_ends_early_has_weights_of_zero():
    values = torch.tensor([5.0, 5.0, 5.0, -1.0], dtype=torch.float64)
    found = stochastic_lanczos(lambda vector: values * vector, 4, steps=4, repeats=3)
    np.testing.assert_allclose(found.weights.sum(axis=1), 1)
    assert (found.weights[:, 2:] == 0).all()
    assert 0 < negative_mass(found) < 1
    assert negative_mass(found, threshold=2) == 0


def test_density_of_one_point_is_a_gaussian_and_sigma_must_be_positive():
    one = Quadrature(np.full((1, 1), 3.0), np.ones((1, 1)))
    density = spectral_density(one)
    assert density.sigma == pytest.approx(0.03)
    assert density.density.max() == pytest.approx(1 / (0.03 * np.sqrt(2 * np.pi)), rel=1e-3)
    with pytest.raises(ValueError, match="sigma=-1"):
        spectral_density(one, sigma=-1)
