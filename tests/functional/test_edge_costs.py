"""Costs of a multicut from embeddings: logistic regression, shards, neighbours, energies."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

from functional.clustering import clustering_accuracy, multicut, multicut_dense, multicut_energy
from functional.edge_costs import (
    CostLine,
    complete_costs,
    complete_energy,
    distance_shards,
    fit_cost_line,
    nearest_neighbours,
    random_pairs,
    sparse_costs,
)


def clouds(count=120, seed=0):
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 4
    return torch.from_numpy(rng.normal(size=(4, 8))[labels] * 2 + rng.normal(size=(count, 8)) * 0.5), labels


@pytest.mark.parametrize("rows", [1, 50, 1024])
def test_shards_are_the_distance_matrix(rows):
    x, _ = clouds()
    exact = cdist(x.numpy(), x.numpy(), "sqeuclidean")
    starts, shards = zip(*distance_shards(x, rows), strict=True)
    assert starts == tuple(range(0, 120, rows))
    np.testing.assert_allclose(torch.cat(shards).numpy(), exact, atol=1e-10)
    costs = complete_costs(x, CostLine(-2.0, 3.0), rows)
    assert np.array_equal(costs, costs.T)
    np.testing.assert_allclose(costs, 3 - 2 * exact, atol=1e-9)


def test_energy_on_the_complete_graph_is_that_of_all_edges():
    x, labels = clouds()
    line = CostLine.threshold(9.0)
    edges = np.stack(np.triu_indices(120, 1), axis=1)
    costs = 9 - cdist(x.numpy(), x.numpy(), "sqeuclidean")[edges[:, 0], edges[:, 1]]
    for partition in (labels, np.arange(120), np.zeros(120, int), labels // 2):
        expected = multicut_energy(partition, edges, costs)
        assert complete_energy(x, line, partition, rows=33) == pytest.approx(expected, abs=1e-7)


def test_neighbours_are_the_nearest_and_each_edge_comes_once():
    x, _ = clouds(40)
    exact = cdist(x.numpy(), x.numpy(), "sqeuclidean")
    edges, distances = nearest_neighbours(x, 3, rows=7)
    ranked = np.argsort(exact + np.diag(np.full(40, np.inf)), axis=1)[:, :3]
    expected = {tuple(sorted((i, int(j)))) for i in range(40) for j in ranked[i]}
    assert sorted(map(tuple, edges.tolist())) == sorted(expected)
    np.testing.assert_allclose(distances, exact[edges[:, 0], edges[:, 1]], atol=1e-10)
    assert len(nearest_neighbours(x, 99)[0]) == 40 * 39 // 2


def test_sparse_graph_finds_the_clusters_of_the_complete_one():
    x, labels = clouds(400)
    line = CostLine.threshold(9.0)
    whole = multicut_dense(complete_costs(x, line))
    edges, costs = sparse_costs(x, line, 10, 20)
    assert len(edges) < 400 * 30 < 400 * 399 / 4
    sparse = multicut(400, edges, costs)
    assert clustering_accuracy(labels, whole) == 1
    assert complete_energy(x, line, whole) <= complete_energy(x, line, sparse) + 1e-6
    assert clustering_accuracy(labels, sparse) > 0.99


def test_neighbours_alone_fall_into_one_cluster_and_random_edges_prevent_it():
    x = torch.linspace(0, 10, 300, dtype=torch.float64)[:, None]
    line = CostLine.threshold(1.0)
    near, distances = nearest_neighbours(x, 10)
    assert multicut(300, near, 1 - distances).max() == 0
    whole, sparse = multicut_dense(complete_costs(x, line)), multicut(300, *sparse_costs(x, line, 10, 20))
    best = complete_energy(x, line, whole)
    assert best <= complete_energy(x, line, sparse) < 0.98 * best < 0


def test_sparse_energy_is_right_on_average():
    x, labels = clouds(60)
    line = CostLine(-1.5, 9.0)
    for partition in (labels, np.arange(60) % 3, np.arange(60)):
        energies = []
        for seed in range(200):
            edges, costs = sparse_costs(x, line, 4, 3, seed=seed)
            codes = edges @ [60, 1]
            assert len(np.unique(codes)) == len(codes)
            assert (edges[:, 0] < edges[:, 1]).all()
            energies.append(multicut_energy(partition, edges, costs))
        error = np.std(energies) / np.sqrt(200)
        assert np.mean(energies) == pytest.approx(complete_energy(x, line, partition), abs=4 * error + 1e-6)
    edges, costs = sparse_costs(x, line, 59, 3)
    assert len(edges) == 60 * 59 // 2
    assert multicut_energy(labels, edges, costs) == pytest.approx(complete_energy(x, line, labels))


def test_regression_recovers_the_line_that_made_the_data():
    rng = np.random.default_rng(0)
    distances = rng.uniform(0, 8, 60_000)
    same = rng.random(60_000) < 1 / (1 + np.exp(-(4 - 1.5 * distances)))
    line = fit_cost_line(distances, same, balanced=False)
    assert line == pytest.approx((-1.5, 4.0), abs=0.06)
    assert line.zero == pytest.approx(4 / 1.5, abs=0.03)


def test_balance_takes_out_the_prior():
    """Nine times as many pairs of different classes shift the log-odds by ln 9; balanced weights shift them back."""
    rng = np.random.default_rng(1)
    near, far = rng.normal(1, 0.7, 3000), rng.normal(3, 0.7, 27_000)
    distances, same = np.concatenate([near, far]), np.arange(30_000) < 3000
    plain, balanced = (fit_cost_line(distances, same, balanced=choice) for choice in (False, True))
    assert balanced.zero == pytest.approx(2.0, abs=0.03)  # midway between equal normal clouds
    assert plain.zero == pytest.approx(2.0 - np.log(9) * 0.49 / 2, abs=0.05)


def test_random_pairs_differ_and_follow_the_classes():
    labels = np.arange(500) % 5
    first, second, same = random_pairs(labels, 20_000, seed=3)
    assert (first != second).all()
    assert np.array_equal(same, labels[first] == labels[second])
    assert same.mean() == pytest.approx(99 / 499, abs=0.01)
    assert np.array_equal(first, random_pairs(labels, 20_000, seed=3)[0])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fit_cost_line([1.0, 2.0], [True, True]), "All 2 pairs are of one class"),
        (lambda: fit_cost_line([1.0, 2.0], [False, False]), "All 2 pairs are of different classes"),
        (lambda: fit_cost_line([1.0, np.inf], [True, False]), "the embedding has diverged"),
        (lambda: random_pairs([1], 5), "1 samples have no pairs"),
        (lambda: nearest_neighbours(torch.zeros(3, 2), 0), "neighbours=0"),
        (lambda: sparse_costs(torch.zeros(3, 2), CostLine(-1, 1), 1, 0), "others=0"),
    ],
)
def test_mistakes_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
