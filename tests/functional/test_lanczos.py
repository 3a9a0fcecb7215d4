"""Lanczos against dense eigenproblems: early stop, orthogonality, restarts, errors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from curvature_data import SPECTRUM, Bowl

from functional.lanczos import eigenpairs, lanczos
from functional.parameter_vectors import random_vector


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_it_stops_after_as_many_steps_as_there_are_eigenvalues(dtype):
    matrix = Bowl(dtype=dtype).matrix
    found = lanczos(lambda vector: matrix @ vector, random_vector(50, 0).to(dtype), steps=30)
    assert len(found.diagonal) == len(found.basis) == len(set(SPECTRUM)) == 5
    assert len(found.off_diagonal) == 4
    assert found.residual == 0
    values = np.linalg.eigvalsh(
        np.diag(found.diagonal) + np.diag(found.off_diagonal, 1) + np.diag(found.off_diagonal, -1)
    )
    np.testing.assert_allclose(values, sorted(set(SPECTRUM)), atol=1e-8 if dtype == torch.float64 else 2e-4)


def test_basis_stays_orthogonal_and_reduces_the_matrix():
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(80, 80, generator=generator, dtype=torch.float64)
    matrix = matrix + matrix.T + 50 * torch.outer(matrix[0], matrix[0])  # an outlier, which plain Lanczos finds again
    found = lanczos(lambda vector: matrix @ vector, random_vector(80, 1), steps=60)
    torch.testing.assert_close(found.basis @ found.basis.T, torch.eye(60, dtype=torch.float64), atol=1e-12, rtol=0)
    reduced = (found.basis @ matrix @ found.basis.T).numpy()
    expected = np.diag(found.diagonal) + np.diag(found.off_diagonal, 1) + np.diag(found.off_diagonal, -1)
    np.testing.assert_allclose(reduced, expected, atol=1e-8)
    assert found.residual > 0


def test_all_steps_of_a_small_space_give_all_eigenvalues():
    values = torch.arange(1.0, 8.0, dtype=torch.float64)
    found = eigenpairs(lambda vector: values * vector, random_vector(7, 0), top=4, bottom=3, tolerance=1e-10)
    np.testing.assert_allclose(found.top, [7, 6, 5, 4])
    np.testing.assert_allclose(found.bottom, [1, 2, 3])
    torch.testing.assert_close(found.top_vectors.abs(), torch.eye(7, dtype=torch.float64).flip(0)[:4])
    assert (found.top_vectors.sum(dim=1) > 0).all()


def test_an_invariant_space_is_left_where_more_values_are_wanted():
    found = eigenpairs(lambda vector: 3 * vector, random_vector(10, 0), top=2, bottom=1)
    np.testing.assert_allclose([*found.top, *found.bottom], 3)
    torch.testing.assert_close(found.top_vectors @ found.top_vectors.T, torch.eye(2, dtype=torch.float64))


@pytest.mark.parametrize("tolerance", [1e-1, 1e-3, 1e-6])
def test_stated_errors_bound_the_true_ones_and_tolerance_is_kept(tolerance):
    values = torch.cat([torch.linspace(0, 1, 500), torch.tensor([30.0, 20.0, -4.0])]).double()
    found = eigenpairs(lambda vector: values * vector, random_vector(503, 0), top=2, bottom=1, tolerance=tolerance)
    apart = np.abs(np.r_[found.top, found.bottom] - [30, 20, -4])
    assert (apart <= tolerance * np.array([30, 20, 4])).all()
    assert (apart <= 2 * np.r_[found.top_errors, found.bottom_errors] + 1e-12).all()


def test_steps_are_limited():
    values = torch.linspace(0, 1, 1000, dtype=torch.float64)
    found = eigenpairs(lambda vector: values * vector, random_vector(1000, 0), tolerance=1e-12, max_steps=12)
    assert found.steps == 12
    assert found.top_errors.max() > 1e-6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": 0}, "steps=0"),
        ({"start": torch.zeros(3)}, "other than zero"),
        ({"start": torch.ones(3, 2)}, r"\(3, 2\)"),
    ],
)
def test_refusals(arguments, message):
    with pytest.raises(ValueError, match=message):
        lanczos(lambda vector: vector, **{"start": torch.ones(3), "steps": 2, **arguments})


def test_more_pairs_than_there_are_and_broken_operators_are_refused():
    with pytest.raises(ValueError, match="between 1 and 3"):
        eigenpairs(lambda vector: vector, torch.ones(3), top=3, bottom=1)
    with pytest.raises(ValueError, match="not finite"):
        lanczos(lambda vector: vector * float("nan"), torch.ones(3), 2)
