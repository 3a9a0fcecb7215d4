"""Correlation clustering as a minimum-cost multicut: the number of clusters is part of the answer.

Minimise the sum of the costs of the edges between clusters; a positive cost attracts, a negative one repels. Greedy
additive edge contraction, then Kernighan-Lin with joins (Keuper et al. 2015); for graphs that are too large, a
partition whose parts are solved, contracted and solved again (Ho et al. 2021).
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import coo_array, csr_array

__all__ = ["PartitionedCut", "multicut", "multicut_dense", "multicut_energy", "multicut_in_parts"]

Labels = NDArray[np.int64]
Costs = NDArray[np.float64]
Solver = Literal["kernighan-lin", "greedy"]
DENSE_SHARE = 1 / 16
"""Share of all pairs that are edges from which on the graph is kept as a matrix: then it takes less memory, too."""
_PASSES = 100
_NO_MATRIX = np.zeros((0, 0))
_NO_ROWS = (np.zeros(0, np.int64), np.zeros(0, np.int32), np.zeros(0))


class PartitionedCut(NamedTuple):
    """Clusters of a graph that was solved in parts."""

    labels: Labels  # (N,)
    energy: float
    energy_of_parts: float  # before the contracted graph was solved
    lower_bound: float  # sum of the negative costs: no partition has less energy


def multicut(n: int, edges: ArrayLike, costs: ArrayLike, *, solver: Solver = "kernighan-lin") -> Labels:
    """Partition a graph so that the edges between clusters have a low total cost.

    Ties go to the smallest pair of nodes: the result is the same each time.

    Args:
        n: number of nodes, 0 to ``n - 1``.
        edges: pairs of nodes, in any order, shape ``(E, 2)``; costs of an edge that comes twice add up.
        costs: positive attracts, negative repels; shape ``(E,)``.
        solver: ``kernighan-lin`` improves what ``greedy`` contraction finds; its energy is never higher.

    Returns:
        Cluster of each node, numbered by the smallest node, shape ``(n,)``.

    Raises:
        ValueError: if shapes do not fit, a node is out of range or joined to itself, a cost is not finite, or
            ``solver`` has no such name.
    """
    pairs, values = _checked(n, edges, costs)
    if 2 * len(values) >= DENSE_SHARE * n * n:
        matrix = np.zeros((n, n))
        np.add.at(matrix, (pairs[:, 0], pairs[:, 1]), values)
        for start in range(0, n, 1024):  # in blocks: the transpose as a whole would be a second matrix
            rows = slice(start, start + 1024)
            block = matrix[rows, start:] + matrix[start:, rows].T
            matrix[rows, start:] = block
            matrix[start:, rows] = block.T
        return _solve_matrix(matrix, solver)
    both = np.concatenate([pairs, pairs[:, ::-1]])
    graph = coo_array((np.tile(values, 2), (both[:, 0], both[:, 1])), shape=(n, n)).tocsr()
    graph.sort_indices()
    return _solve(n, _NO_MATRIX, graph, solver)


def multicut_dense(costs: ArrayLike, *, solver: Solver = "kernighan-lin") -> Labels:
    """Multicut of a complete graph given as a matrix.

    Args:
        costs: symmetric, shape ``(n, n)``; the diagonal is not read. It is copied once for greedy contraction.
        solver: as for :func:`multicut`.

    Returns:
        Cluster of each node, shape ``(n,)``.

    Raises:
        ValueError: if the matrix is not square, symmetric and finite, or ``solver`` has no such name.
    """
    matrix = np.array(costs, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"costs have shape {matrix.shape}; needed is a square matrix.")
    np.fill_diagonal(matrix, 0)
    for start in range(0, len(matrix), 1024):
        block = matrix[start : start + 1024]
        if not np.isfinite(block).all() or not np.array_equal(block, matrix[:, start : start + 1024].T):
            raise ValueError("costs must be finite and symmetric; take the mean with the transpose.")
    return _solve_matrix(matrix, solver)


def multicut_in_parts(
    n: int,
    edges: ArrayLike,
    costs: ArrayLike,
    parts: ArrayLike | int,
    *,
    seed: int = 0,
    solver: Solver = "kernighan-lin",
) -> PartitionedCut:
    """Multicut of a graph that is too large to solve at once: solve parts, contract them, solve what is left.

    Args:
        n: number of nodes.
        edges: as for :func:`multicut`.
        costs: as for :func:`multicut`.
        parts: number of parts, which are then drawn at random; or the part of each node, shape ``(n,)``.
        seed: seed of the draw.
        solver: as for :func:`multicut`.

    Returns:
        Labels, their energy, the energy before the contracted graph was solved, and a lower bound.

    Raises:
        ValueError: as for :func:`multicut`, or if ``parts`` do not fit.
    """
    pairs, values = _checked(n, edges, costs)
    part = np.asarray(parts)
    if part.ndim == 0:
        if not 1 <= int(part) <= max(n, 1):
            raise ValueError(f"parts={int(part)}: there are between 1 and n={n} parts.")
        part = np.random.default_rng(seed).permutation(n) % int(part)
    if part.shape != (n,):
        raise ValueError(f"parts have shape {part.shape}; needed is the part of each of {n} nodes.")
    part = np.unique(part, return_inverse=True)[1]
    inside = part[pairs[:, 0]] == part[pairs[:, 1]]
    labels, position, clusters = np.zeros(n, np.int64), np.zeros(n, np.int64), 0
    for number in range(part.max(initial=-1) + 1):
        nodes = np.flatnonzero(part == number)
        position[nodes] = np.arange(len(nodes))
        rows = inside & (part[pairs[:, 0]] == number)
        solved = multicut(len(nodes), position[pairs[rows]], values[rows], solver=solver)
        labels[nodes] = solved + clusters
        clusters += int(solved.max(initial=-1)) + 1
    of_parts = multicut_energy(labels, pairs, values)
    contracted = labels[pairs]
    between = contracted[:, 0] != contracted[:, 1]
    merged = multicut(clusters, contracted[between], values[between], solver=solver)
    labels = _numbered(merged[labels])
    return PartitionedCut(labels, multicut_energy(labels, pairs, values), of_parts, float(values.clip(max=0).sum()))


def multicut_energy(labels: ArrayLike, edges: ArrayLike, costs: ArrayLike) -> float:
    """Sum of the costs of the edges ``(E, 2)`` between clusters, given the cluster of each node ``(n,)``."""
    cluster, pairs = np.asarray(labels), np.asarray(edges).reshape(-1, 2)
    return float(np.asarray(costs, np.float64)[cluster[pairs[:, 0]] != cluster[pairs[:, 1]]].sum())


def _checked(n: int, edges: ArrayLike, costs: ArrayLike) -> tuple[NDArray[np.int64], Costs]:
    given = np.asarray(edges)
    if given.dtype.kind == "f" and not np.array_equal(given, np.floor(given)):
        raise ValueError("edges name nodes by whole numbers.")
    pairs, values = given.astype(np.int64), np.asarray(costs, dtype=np.float64)
    if pairs.size == 0:
        pairs = pairs.reshape(0, 2)
    if pairs.ndim != 2 or pairs.shape[1] != 2 or values.shape != (len(pairs),):
        raise ValueError(f"edges {pairs.shape} and costs {values.shape}; needed are (E, 2) and (E,).")
    if n < 0:
        raise ValueError(f"n={n} nodes; there cannot be fewer than 0.")
    if len(pairs) and not 0 <= pairs.min() <= pairs.max() < n:
        raise ValueError(f"edges name nodes {pairs.min()} to {pairs.max()}; with n={n} they lie in 0..n-1.")
    if (pairs[:, 0] == pairs[:, 1]).any():
        raise ValueError(f"Edge {int((pairs[:, 0] == pairs[:, 1]).argmax())} joins a node to itself; leave it out.")
    if not np.isfinite(values).all():
        raise ValueError(f"costs[{int((~np.isfinite(values)).argmax())}] is not finite.")
    return pairs, values


def _solve_matrix(matrix: Costs, solver: Solver) -> Labels:
    return _solve(len(matrix), matrix, None, solver)


def _solve(n: int, matrix: Costs, graph: csr_array | None, solver: Solver) -> Labels:
    """Solve a graph of n nodes given as a matrix with a diagonal of 0, or as sparse rows."""
    # Importing numba takes half a second, which nobody should wait for who does not cluster.
    from functional import multicut_kernels

    kernels: Any = multicut_kernels

    if solver not in ("kernighan-lin", "greedy"):
        raise ValueError(f"solver={solver!r} is not one of kernighan-lin, greedy.")
    if n == 0:
        return np.zeros(0, np.int64)
    rows = _NO_ROWS if graph is None else (graph.indptr.astype(np.int64), graph.indices.astype(np.int32), graph.data)
    # What sums of rounded costs differ by is no gain.
    least = 1e-12 * float(np.abs(matrix).max(initial=0) if graph is None else np.abs(graph.data).max(initial=0))
    labels = kernels.contract_dense(matrix.copy(), least) if graph is None else kernels.contract_sparse(*rows, least)
    labels = _numbered(labels)
    return labels if solver == "greedy" else _improved(matrix, rows, labels, least * n)


def _improved(
    matrix: Costs, rows: tuple[NDArray[np.int64], NDArray[np.int32], Costs], labels: Labels, least: float
) -> Labels:
    """Passes of Kernighan-Lin until none saves anything."""
    from functional import multicut_kernels

    improve: Any = multicut_kernels.improve
    dense = len(matrix) > 0
    changed = np.ones(labels.max() + 1, np.bool_)
    for _ in range(_PASSES):
        count = labels.max() + 1
        if dense:
            first, second = np.triu_indices(count, 1)
        else:
            source = np.repeat(labels, np.diff(rows[0]))
            codes = np.unique(source * count + labels[rows[1]])
            first, second = np.divmod(codes, count)
            first, second = first[first < second], second[first < second]
        active = changed[first] | changed[second]
        saved, touched = improve(matrix, *rows, labels, first[active], second[active], changed, least)
        if not saved > 0:
            break
        used, labels = np.unique(labels, return_inverse=True)
        changed = touched[used]
    return _numbered(labels)


def _numbered(labels: Labels) -> Labels:
    """Clusters numbered in the order of their smallest node."""
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int64)
    rank[first.argsort()] = np.arange(len(first))
    return rank[inverse]
