"""Compiled loops of the multicut heuristics; numba compiles them at first use and keeps the result on disk.

Graphs come as a dense symmetric matrix of costs, or as rows of a sparse one (``indptr``, ``indices``, ``data``).
"""

from __future__ import annotations

import numpy as np
from numba import njit

__all__ = ["contract_dense", "contract_sparse", "improve"]


@njit(cache=True)
def contract_dense(w, stop):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    """Contract the dearest edge while its cost is above ``stop``; ``w`` (n, n) is used up. Labels (n,)."""
    n = w.shape[0]
    label = np.arange(n)
    alive = np.arange(n)  # the first `count` are nodes of the contracted graph, in ascending order
    best, partner = np.empty(n), np.zeros(n, np.int64)
    for i in range(n):
        w[i, i] = -np.inf
        best[i] = -np.inf
        for j in range(n):
            if w[i, j] > best[i]:
                best[i], partner[i] = w[i, j], j
    count = n
    while count > 1:
        u = alive[0]
        for k in range(1, count):
            if best[alive[k]] > best[u]:
                u = alive[k]
        if not best[u] > stop:
            break
        v = partner[u]
        label[v] = u
        kept = 0
        for k in range(count):
            if alive[k] != v:
                alive[kept] = alive[k]
                kept += 1
        count = kept
        best[u] = -np.inf
        for k in range(count):
            x = alive[k]
            if x == u:
                continue
            cost = w[u, x] + w[v, x]
            w[u, x] = cost
            w[x, u] = cost
            if cost > best[u]:
                best[u], partner[u] = cost, x
            if cost > best[x] or (cost == best[x] and u < partner[x]):
                best[x], partner[x] = cost, u
            elif partner[x] == u or partner[x] == v:
                best[x] = -np.inf
                for m in range(count):
                    if w[x, alive[m]] > best[x]:
                        best[x], partner[x] = w[x, alive[m]], alive[m]
    return _roots(label)


@njit(cache=True)
def contract_sparse(indptr, indices, data, stop):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    """The same on sparse rows, each edge in both directions, columns ascending. Labels (n,)."""
    n, size = indptr.shape[0] - 1, indices.shape[0]
    target, cost = indices.astype(np.int64), data.copy()  # of half edges; a target of -1 is a removed one
    after, twin, first = np.full(size, -1), np.empty(size, np.int64), np.full(n, -1)
    seen = indptr[:-1].copy()
    for i in range(n):  # rows ascend, so the twins of a row's edges are met in the order of their own rows
        for e in range(indptr[i], indptr[i + 1]):
            twin[e] = seen[target[e]]
            seen[target[e]] += 1
            if e > indptr[i]:
                after[e - 1] = e
        if indptr[i] < indptr[i + 1]:
            first[i] = indptr[i]
    label = np.arange(n)
    alive = np.arange(n)
    best, partner = np.full(n, -np.inf), np.zeros(n, np.int64)
    for i in range(n):
        _search(i, first, after, target, cost, best, partner)
    mark = np.full(n, -1)
    count = n
    while count > 1:
        u = alive[0]
        for k in range(1, count):
            if best[alive[k]] > best[u]:
                u = alive[k]
        if not best[u] > stop:
            break
        v = partner[u]
        label[v] = u
        kept = 0
        for k in range(count):
            if alive[k] != v:
                alive[kept] = alive[k]
                kept += 1
        count = kept
        e = first[u]
        while e >= 0:
            if target[e] == v:
                target[e] = -1
            elif target[e] >= 0:
                mark[target[e]] = e
            e = after[e]
        e = first[v]
        while e >= 0:
            following, x = after[e], target[e]
            if x >= 0 and x != u:
                if mark[x] >= 0:
                    kept_edge = mark[x]
                    cost[kept_edge] += cost[e]
                    cost[twin[kept_edge]] = cost[kept_edge]
                    target[twin[e]] = -1
                else:
                    target[twin[e]] = u
                    after[e] = first[u]
                    first[u] = e
            e = following
        first[v] = -1
        _search(u, first, after, target, cost, best, partner)
        e = first[u]
        while e >= 0:
            x, value = target[e], cost[e]
            mark[x] = -1
            if value > best[x] or (value == best[x] and u < partner[x]):
                best[x], partner[x] = value, u
            elif partner[x] == u or partner[x] == v:
                _search(x, first, after, target, cost, best, partner)
            e = after[e]
    return _roots(label)


@njit(cache=True)
def _search(i, first, after, target, cost, best, partner):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Dearest edge of a node; removed edges are taken out of its list on the way."""
    best[i] = -np.inf
    before, e = -1, first[i]
    while e >= 0:
        x = target[e]
        if x < 0:
            if before < 0:
                first[i] = after[e]
            else:
                after[before] = after[e]
        else:
            if cost[e] > best[i] or (cost[e] == best[i] and x < partner[i]):
                best[i], partner[i] = cost[e], x
            before = e
        e = after[e]


@njit(cache=True)
def _roots(label):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Follow each node to the one that it was contracted into."""
    for i in range(label.shape[0]):
        root = i
        while label[root] != root:
            root = label[root]
        while label[i] != root:
            label[i], i = root, label[i]
    return label


@njit(cache=True)
def improve(w, indptr, indices, data, label, pair_a, pair_b, changed, least):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    """One pass of Kernighan-Lin with joins over pairs of clusters, and of splits of clusters.

    ``w`` is dense, or (0, 0) where the rows hold the graph. ``label`` (n,) numbers clusters from 0 and is changed in
    place. Pairs of which neither cluster is ``changed`` (K,) are left out. Returns the energy that was saved, and
    which clusters have changed, (2 n + 1,).
    """
    n = label.shape[0]
    dense = w.shape[0] > 0
    first, after = np.full(2 * n + 1, -1), np.full(n, -1)
    for i in range(n - 1, -1, -1):
        after[i] = first[label[i]]
        first[label[i]] = i
    clusters = changed.shape[0]
    touched = np.zeros(2 * n + 1, np.bool_)
    place = np.full(n, -1)
    saved = 0.0
    for p in range(pair_a.shape[0]):
        a, b = pair_a[p], pair_b[p]
        if changed[a] or changed[b]:
            gain = _between(w, indptr, indices, data, label, first, after, place, dense, a, b, least)
            if gain > 0:
                saved += gain
                touched[a] = touched[b] = True
    new = clusters
    a = 0
    while a < new and new < 2 * n + 1:
        if a >= clusters or changed[a] or touched[a]:
            while new < 2 * n + 1:
                gain = _between(w, indptr, indices, data, label, first, after, place, dense, a, new, least)
                if not gain > 0:
                    break
                saved += gain
                touched[a] = touched[new] = True
                new += 1
        a += 1
    return saved, touched


@njit(cache=True)
def _between(w, indptr, indices, data, label, first, after, place, dense, a, b, least):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Move nodes between two clusters, or join them, whatever saves more; ``b`` may be empty. Returns what it saves."""
    size = 0
    for c in (a, b):
        i = first[c]
        while i >= 0:
            size += 1
            i = after[i]
    members, side = np.empty(size, np.int64), np.empty(size, np.int64)
    size = 0
    for c in (a, b):
        i = first[c]
        while i >= 0:
            members[size], side[size], place[i] = i, c, size
            size += 1
            i = after[i]
    gain = np.zeros(size)  # what moving a node to the other side saves
    joined = 0.0
    for k in range(size):
        i = members[k]
        if dense:
            for m in range(size):
                if m != k:
                    gain[k] += w[i, members[m]] if side[m] != side[k] else -w[i, members[m]]
                    if side[m] != side[k]:
                        joined += w[i, members[m]]
        else:
            for e in range(indptr[i], indptr[i + 1]):
                m = place[indices[e]]
                if m >= 0:
                    gain[k] += data[e] if side[m] != side[k] else -data[e]
                    if side[m] != side[k]:
                        joined += data[e]
    joined /= 2
    order, moved = np.empty(size, np.int64), np.zeros(size, np.bool_)
    total, best, length = 0.0, 0.0, 0
    for step in range(size):
        chosen = -1
        for k in range(size):
            if not moved[k] and (chosen < 0 or gain[k] > gain[chosen]):
                chosen = k
        order[step], moved[chosen] = chosen, True
        total += gain[chosen]
        if total > best + least:
            best, length = total, step + 1
        i = members[chosen]
        if dense:
            for m in range(size):
                gain[m] += 2 * w[i, members[m]] if side[m] == side[chosen] else -2 * w[i, members[m]]
        else:
            for e in range(indptr[i], indptr[i + 1]):
                m = place[indices[e]]
                if m >= 0:
                    gain[m] += 2 * data[e] if side[m] == side[chosen] else -2 * data[e]
        side[chosen] = a + b - side[chosen]
    for k in range(size):
        place[members[k]] = -1
    if joined > best + least:
        for k in range(size):
            label[members[k]] = a
        best = joined
    elif best > least:
        for step in range(length):
            k = order[step]
            label[members[k]] = a + b - label[members[k]]
    else:
        return 0.0
    first[a] = first[b] = -1
    for k in range(size - 1, -1, -1):
        i = members[k]
        after[i] = first[label[i]]
        first[label[i]] = i
    return best
