"""Multicut against optima by exhaustive search, planted partitions, and itself on other representations."""

from __future__ import annotations

import itertools
from functools import lru_cache

import numpy as np
import pytest

import functional.multicut as module
from functional.clustering import multicut, multicut_dense, multicut_energy, multicut_in_parts, variation_of_information

K4 = np.array(list(itertools.combinations(range(4), 2)))
K9 = np.array(list(itertools.combinations(range(9), 2)))
K10 = np.array(list(itertools.combinations(range(10), 2)))


def complete(n):
    return np.stack(np.triu_indices(n, 1), axis=1)


@pytest.fixture(params=["matrix", "rows"])
def kept_as(request, monkeypatch):
    """Solve the same graphs as a matrix and as sparse rows."""
    monkeypatch.setattr(module, "DENSE_SHARE", {"matrix": 0.0, "rows": np.inf}[request.param])


@lru_cache
def partitions(n):
    """All partitions of n nodes, as growth strings, one per row."""
    rows = [[0]]
    for _ in range(n - 1):
        rows = [[*row, label] for row in rows for label in range(max(row) + 2)]
    return np.array(rows)


def optimum(n, edges, costs, every=None):
    """Least energy of all partitions."""
    every = partitions(n) if every is None else every
    return float(((every[:, edges[:, 0]] != every[:, edges[:, 1]]) @ costs).min())


# Small graphs with their optimum, and the one that greedy contraction reaches: by hand, checked again below.
SMALL = {
    "frustrated triangle": (3, [[0, 1], [1, 2], [0, 2]], [2.0, 1.0, -1.5], -0.5),
    "one repulsive edge": (2, [[0, 1]], [-1.0], -1.0),
    "attractive K4": (4, K4.tolist(), [1.0] * 6, 0.0),
    "repulsive K4": (4, K4.tolist(), [-1.0] * 6, -6.0),
    "star trap": (
        5,
        [[0, 1], [0, 2], [0, 3], [0, 4], [1, 2], [3, 4], [1, 3], [2, 4]],
        [3, 2.9, 2.8, 2.7, -1, -1, -4, -4],
        -4.3,
    ),
    "path and a repulsive edge": (6, [[0, 1], [1, 2], [2, 3], [3, 4], [4, 5], [0, 5]], [2, 2, 0.5, 2, 2, -3], -2.5),
}


@pytest.mark.parametrize("name", SMALL)
def test_small_graphs_reach_their_optimum(name, kept_as):
    n, edges, costs, least = SMALL[name]
    edges, costs = np.array(edges), np.array(costs)
    assert optimum(n, edges, costs) == pytest.approx(least)
    labels = multicut(n, edges, costs)
    assert multicut_energy(labels, edges, costs) == pytest.approx(least, abs=1e-9)


def test_kernighan_lin_repairs_greedy_contraction_on_gaussian_graphs(kept_as):
    """60 complete graphs of 9 nodes with standard normal costs: sheet of the paper, sum of the optima -514.779."""
    every = partitions(9)
    cut = every[:, K9[:, 0]] != every[:, K9[:, 1]]
    sums, reached = np.zeros(3), np.zeros(2, int)
    for seed in range(5000, 5060):
        costs = np.random.default_rng(seed).standard_normal(36)
        best = float((cut @ costs).min())
        greedy, improved = (
            multicut_energy(multicut(9, K9, costs, solver=solver), K9, costs) for solver in ("greedy", "kernighan-lin")
        )
        assert best - 1e-9 <= improved <= greedy + 1e-9
        sums += best, greedy, improved
        reached += greedy < best + 1e-9, improved < best + 1e-9
    assert sums[0] == pytest.approx(-514.779, abs=1e-3)
    assert sums[1] == pytest.approx(-498.941, abs=1e-3)
    assert reached[0] == 39
    assert sums[2] <= -509.5
    assert reached[1] >= 50


@pytest.mark.parametrize(
    ("seed", "n", "greedy"), [(1, 9, -6.358), (2, 9, -4.980), (11, 9, -9.250), (13, 9, -3.471), (1000, 10, -5.309)]
)
def test_named_graphs_have_the_known_gap(seed, n, greedy, kept_as):
    """Standard normal costs rounded to three digits; greedy contraction stops short, moves and joins do not."""
    edges = {9: K9, 10: K10}[n]
    costs = np.round(np.random.default_rng(seed).standard_normal(len(edges)), 3)
    assert multicut_energy(multicut(n, edges, costs, solver="greedy"), edges, costs) == pytest.approx(greedy)
    least = optimum(n, edges, costs)
    assert least < greedy - 0.1
    assert multicut_energy(multicut(n, edges, costs), edges, costs) == pytest.approx(least)


def test_planted_clusters_are_recovered(kept_as):
    rng = np.random.default_rng(0)
    truth, edges = rng.integers(5, size=200), complete(200)
    costs = np.where(truth[edges[:, 0]] == truth[edges[:, 1]], 1, -1) * rng.uniform(0.1, 2, len(edges))
    labels = multicut(200, edges, costs)
    assert variation_of_information(truth, labels) == 0
    assert labels.max() == 4
    assert multicut_energy(labels, edges, costs) == pytest.approx(costs[costs < 0].sum())
    assert np.array_equal(np.unique(labels, return_index=True)[1], np.sort(np.unique(labels, return_index=True)[1]))


def random_sparse(seed=0, n=300, count=2000):
    rng = np.random.default_rng(seed)
    edges = rng.integers(n, size=(count, 2))
    edges = np.unique(np.sort(edges[edges[:, 0] != edges[:, 1]], axis=1), axis=0)
    return n, edges, rng.normal(0.2, 1, len(edges))


def test_matrix_and_rows_agree_and_energy_never_rises(monkeypatch):
    n, edges, costs = random_sparse()
    energies, partition = {}, {}
    for name, share in (("matrix", 0.0), ("rows", np.inf)):
        monkeypatch.setattr(module, "DENSE_SHARE", share)
        for solver in ("greedy", "kernighan-lin"):
            labels = multicut(n, edges, costs, solver=solver)
            energies[name, solver], partition[name, solver] = multicut_energy(labels, edges, costs), labels
        assert energies[name, "kernighan-lin"] < energies[name, "greedy"] < 0
    # Contraction is the same algorithm on both; where moves start from differs by order of the pairs only.
    assert np.array_equal(partition["matrix", "greedy"], partition["rows", "greedy"])
    assert energies["matrix", "kernighan-lin"] == pytest.approx(energies["rows", "kernighan-lin"], rel=0.02)


def test_greedy_contraction_is_the_textbook_one():
    n, edges, costs = random_sparse(1, 40, 250)
    weights = {tuple(edge): float(cost) for edge, cost in zip(edges.tolist(), costs, strict=True)}
    clusters = {i: {i} for i in range(n)}
    while weights and max(weights.values()) > 0:
        u, v = max(weights, key=weights.__getitem__)
        clusters[u] |= clusters.pop(v)
        merged = {}
        for (a, b), cost in weights.items():
            a, b = sorted((u if a == v else a, u if b == v else b))
            if a != b:
                merged[a, b] = merged.get((a, b), 0.0) + cost
        weights = merged
    expected = np.empty(n, int)
    for number, members in enumerate(clusters.values()):
        expected[list(members)] = number
    assert variation_of_information(expected, multicut(n, edges, costs, solver="greedy")) < 1e-12


def test_order_of_edges_repeats_and_relabelled_nodes_do_not_matter(kept_as):
    rng = np.random.default_rng(3)
    truth, edges = np.arange(60) % 4, complete(60)
    costs = np.where(truth[edges[:, 0]] == truth[edges[:, 1]], 1.0, -1.0) + rng.normal(0, 0.5, len(edges))
    labels = multicut(60, edges, costs)
    order = rng.permutation(len(edges))
    assert np.array_equal(multicut(60, edges[order][:, ::-1], costs[order]), labels)
    twice = np.concatenate([edges, edges[:, ::-1]])
    assert np.array_equal(multicut(60, twice, np.concatenate([costs / 2, costs / 2])), labels)


def test_matrix_is_the_complete_graph():
    rng = np.random.default_rng(4)
    edges = complete(50)
    costs = rng.normal(0, 1, len(edges))
    matrix = np.zeros((50, 50))
    matrix[edges[:, 0], edges[:, 1]] = costs
    before = (matrix := matrix + matrix.T).copy()
    assert np.array_equal(multicut_dense(matrix), multicut(50, edges, costs))
    assert np.array_equal(matrix, before)


def test_parts_are_put_together_again():
    rng = np.random.default_rng(5)
    truth, edges = np.repeat(np.arange(4), 30), complete(120)
    costs = np.where(truth[edges[:, 0]] == truth[edges[:, 1]], 1.0, -1.0) + rng.normal(0, 0.3, len(edges))
    whole = multicut_energy(multicut(120, edges, costs), edges, costs)
    found = multicut_in_parts(120, edges, costs, 5, seed=1)
    assert variation_of_information(truth, found.labels) < 1e-12
    assert found.energy == pytest.approx(whole)
    assert found.lower_bound <= found.energy < found.energy_of_parts
    assert multicut_energy(found.labels, edges, costs) == pytest.approx(found.energy)
    one = multicut_in_parts(120, edges, costs, np.zeros(120))
    assert np.array_equal(one.labels, multicut(120, edges, costs))


def test_energies_are_those_of_another_library():
    """Greedy contraction of bioimage-cpp ends at the same energy, its Kernighan-Lin near ours."""
    from bioimage_cpp.graph import UndirectedGraph
    from bioimage_cpp.graph.multicut import GreedyAdditiveMulticut, KernighanLinMulticut, MulticutObjective

    ours, theirs = np.zeros(2), np.zeros(2)
    for seed in range(5):
        rng = np.random.default_rng(seed)
        truth = rng.integers(4, size=80)
        points, edges = rng.normal(size=(4, 6))[truth] + rng.normal(size=(80, 6)) * 0.8, complete(80)
        costs = 8 - np.square(points[edges[:, 0]] - points[edges[:, 1]]).sum(1)
        graph = UndirectedGraph.from_edges(80, edges.astype(np.uint64))
        solvers = (("greedy", GreedyAdditiveMulticut), ("kernighan-lin", KernighanLinMulticut))
        for column, (name, solver) in enumerate(solvers):
            labels = np.asarray(solver().optimize(MulticutObjective(graph, costs)))
            theirs[column] += multicut_energy(labels, edges, costs)
            ours[column] += multicut_energy(multicut(80, edges, costs, solver=name), edges, costs)
    assert ours[0] == pytest.approx(theirs[0], rel=1e-12)
    assert ours[1] == pytest.approx(theirs[1], rel=1e-3)
    assert ours[1] < ours[0]


def test_nodes_without_edges_stay_alone():
    assert multicut(4, [], []).tolist() == [0, 1, 2, 3]
    assert multicut(0, [], []).tolist() == []
    assert multicut(5, [[1, 3]], [2.0]).tolist() == [0, 1, 2, 1, 3]
    assert multicut_in_parts(3, [], [], 2).labels.tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: multicut(3, [[0, 3]], [1.0]), "edges name nodes 0 to 3; with n=3"),
        (lambda: multicut(3, [[0, 1], [2, 2]], [1.0, 1.0]), "Edge 1 joins a node to itself"),
        (lambda: multicut(3, [[0, 1]], [np.nan]), r"costs\[0\] is not finite"),
        (lambda: multicut(3, [[0.5, 1]], [1.0]), "edges name nodes by whole numbers"),
        (lambda: multicut(-1, [], []), "n=-1 nodes"),
        (lambda: multicut(3, [[0, 1]], [1.0, 2.0]), r"needed are \(E, 2\) and \(E,\)"),
        (lambda: multicut(3, [[0, 1]], [1.0], solver="exact"), "solver='exact' is not one of"),
        (lambda: multicut_dense(np.zeros((2, 3))), "needed is a square matrix"),
        (lambda: multicut_dense([[0, 1.0], [2.0, 0]]), "finite and symmetric"),
        (lambda: multicut_in_parts(3, [[0, 1]], [1.0], 7), "parts=7: there are between 1 and n=3"),
    ],
)
def test_mistakes_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
