"""Pictures of embeddings: scatter plots in two dimensions, sheets of nearest neighbours."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from functional.edge_costs import distance_shards

__all__ = ["draw_embedding", "draw_neighbours", "flatten_embedding"]

Array = NDArray[np.float64]


def flatten_embedding(embeddings: Array, method: Literal["pca", "tsne"]) -> Array:
    """Two coordinates of each of N embeddings ``(N, D)``, N at least 3, by ``pca`` or ``tsne``: shape ``(N, 2)``."""
    if method == "pca":
        return PCA(2, random_state=0).fit_transform(embeddings)
    perplexity = min(30.0, (len(embeddings) - 1) / 3)
    return TSNE(2, perplexity=perplexity, init="pca", random_state=0).fit_transform(embeddings).astype(np.float64)


def draw_embedding(points: Array, labels: NDArray[np.int64], title: str) -> Figure:
    """Scatter plot of points ``(N, 2)`` with a colour per class ``(N,)``."""
    figure = Figure(figsize=(6, 5), layout="constrained")
    axes = figure.subplots()
    values, colours = np.unique(labels, return_inverse=True)
    few = len(values) <= 20
    scatter = axes.scatter(points[:, 0], points[:, 1], c=colours, s=8, cmap="tab20" if few else "turbo", linewidths=0)
    if few:
        shades = scatter.to_rgba(np.arange(len(values)))
        handles = [axes.scatter([], [], color=shade, s=16) for shade in shades]
        axes.legend(handles, values.tolist(), loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    if title == "pca":
        axes.set_aspect("equal")
    axes.set_title(f"Embedding of {len(points)} images, {title}")
    return figure


def draw_neighbours(
    embeddings: Array, labels: NDArray[np.int64], pictures: NDArray[np.uint8], queries: int, neighbours: int
) -> Figure:
    """Sheet of queries and their nearest images.

    Args:
        embeddings: shape ``(N, D)``, N at least 2.
        labels: classes, shape ``(N,)``; a neighbour of the query's class has a green frame, another a red one.
        pictures: uint8, shape ``(N, 3, H, W)``.
        queries: most rows; classes take turns.
        neighbours: most images beside a query.
    """
    order = np.concatenate([np.arange(np.count_nonzero(labels == label)) for label in np.unique(labels)])
    by_turn = np.argsort(labels, kind="stable")[np.argsort(order, kind="stable")]  # first of each class, second, ...
    rows = by_turn[:queries]
    count = min(neighbours, len(labels) - 1)
    (distances,) = [shard for _, shard in distance_shards(torch.from_numpy(embeddings), len(embeddings))]
    distances.fill_diagonal_(float("inf"))
    nearest = distances[torch.from_numpy(rows)].topk(count, largest=False).indices.numpy()
    figure = Figure(figsize=(0.9 * (count + 1), 0.95 * len(rows)), layout="constrained")
    grid = figure.subplots(len(rows), count + 1, squeeze=False)
    for line, query, others in zip(grid, rows, nearest, strict=True):
        for axes, index in zip(line, [query, *others], strict=True):
            axes.imshow(pictures[index].transpose(1, 2, 0))
            axes.set_xticks([])
            axes.set_yticks([])
            colour = "black" if index == query else "tab:green" if labels[index] == labels[query] else "tab:red"
            for spine in axes.spines.values():
                spine.set(color=colour, linewidth=2.5)
        line[0].set_ylabel(str(labels[query]), rotation=0, labelpad=8, va="center")
    return figure
