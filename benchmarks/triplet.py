"""Triplet losses against pytorch-metric-learning, and multicut against bioimage-cpp, in CPU time of one thread.

Run ``python benchmarks/triplet.py [--rounds 30] [--skip-multicut] [--scale 10000]``. Both libraries come with the dev
extra and are needed for comparison only. Times are CPU time, smallest over interleaved rounds, and ratios
are medians over the rounds. Goals: FaceNet's loss over all triplets at least 4 times and the two-margin loss at least
20 times as fast as pytorch-metric-learning's all-triplets loss at 256 x 128 embeddings of 10 classes, with the value of
its mean; B = 2048 within 1 GB; a complete graph of 2000 nodes cut within 4 s and 700 MB, at no higher energy than the
library's. Memory is the high-water mark of a process of its own. ``--scale`` cuts the complete graph of so many
embeddings, and graphs that leave edges out or are solved in parts, with the energy that this costs.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import statistics
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from functional.clustering import multicut, multicut_dense, multicut_energy, multicut_in_parts
from functional.edge_costs import CostLine, complete_costs, complete_energy, sparse_costs
from functional.triplet import bounded_triplet_loss, triplet_loss, two_margin_loss

MARGIN = 0.2
THRESHOLD = 14.0  # squared distance between the clouds' points at which joining and cutting cost the same


def cpu_seconds(run: Callable[[], object]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def batch(size: int = 256, dimensions: int = 128, classes: int = 10) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.nn.functional.normalize(torch.randn(size, dimensions, generator=generator))
    return x.requires_grad_(), torch.arange(size) % classes


def compare_losses(rounds: int) -> None:
    from pytorch_metric_learning.distances import LpDistance
    from pytorch_metric_learning.losses import TripletMarginLoss
    from pytorch_metric_learning.miners import TripletMarginMiner
    from pytorch_metric_learning.reducers import MeanReducer

    torch.set_num_threads(1)
    x, labels = batch()
    distance = LpDistance(normalize_embeddings=False, power=2)
    library = TripletMarginLoss(margin=MARGIN, distance=distance, reducer=MeanReducer())
    miner = TripletMarginMiner(margin=MARGIN, type_of_triplets="semihard", distance=distance)
    losses: dict[str, Callable[[], Tensor]] = {
        "library, all": lambda: library(x, labels),
        "library, semi-hard": lambda: library(x, labels, miner(x, labels)),
        "triplet_loss": lambda: triplet_loss(x, labels, MARGIN),
        "bounded_triplet_loss": lambda: bounded_triplet_loss(x, labels, MARGIN, 0.5),
        "two_margin_loss": lambda: two_margin_loss(x, labels, 3.0, 1.0),
        "triplet_loss, semi-hard": lambda: triplet_loss(x, labels, MARGIN, mining="semi-hard"),
        "triplet_loss, batch-hard": lambda: triplet_loss(x, labels, MARGIN, mining="batch-hard"),
    }
    times: dict[str, list[float]] = {name: [] for name in losses}
    for index in range(rounds + 2):
        for name, loss in losses.items():
            taken = cpu_seconds(lambda loss=loss: torch.autograd.grad(loss(), x))  # type: ignore[misc]
            if index >= 2:
                times[name].append(taken)
    print(f"256 x 128 embeddings, 10 classes, forward and backward, one thread, {rounds} rounds:")
    for name, taken in times.items():
        ratio = statistics.median(a / b for a, b in zip(times["library, all"], taken, strict=True))
        print(f"  {name:26s} {1000 * min(taken):7.2f} ms   library, all / this: {ratio:6.1f}")
    values = [float(losses[name]().detach()) for name in ("library, all", "triplet_loss")]
    print(f"  values over all triplets: library {values[0]:.8f}, ours {values[1]:.8f}")


def peak(work: str) -> None:
    """Print what one piece of work costs in this process."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    torch.set_num_threads(1)
    if work.startswith("scale"):
        scale(work)
        return
    if work in ("triplet_loss", "two_margin_loss"):
        loss = {"triplet_loss": triplet_loss, "two_margin_loss": two_margin_loss}[work]
        x, labels = batch(2048)
        taken = cpu_seconds(lambda: torch.autograd.grad(loss(x, labels), x))
        result = ""
    else:
        solver, nodes = work.split()
        edges, costs = blobs(int(nodes))
        solve = {"multicut": multicut, "bioimage-cpp": bioimage}[solver]
        solve(3, np.array([[0, 1], [1, 2], [0, 2]]), np.ones(3))  # compiled or loaded before the clock runs
        start = time.process_time()
        labels = solve(int(nodes), edges, costs)
        taken = time.process_time() - start
        result = f"   energy {multicut_energy(labels, edges, costs):.4f}, {len(np.unique(labels))} clusters"
    high = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"  {work:20s} {taken:7.3f} CPU s   peak {high:6.0f} MB, of it {before:.0f} MB imports{result}", flush=True)


def clouds(nodes: int) -> tuple[np.ndarray, np.ndarray]:
    """Points of ten overlapping Gaussian clouds, and their clouds."""
    rng = np.random.default_rng(0)
    truth = rng.integers(10, size=nodes)
    return rng.normal(size=(10, 8))[truth] * 1.2 + rng.normal(size=(nodes, 8)) * 0.8, truth


def blobs(nodes: int) -> tuple[np.ndarray, np.ndarray]:
    """Complete graph over the clouds."""
    squared = _squared(clouds(nodes)[0])
    edges = np.stack(np.triu_indices(nodes, 1), axis=1)
    return edges, THRESHOLD - squared[edges[:, 0], edges[:, 1]]


def scale(work: str) -> None:
    """Print time, memory and energy on the complete graph of one way to cut the graph of many embeddings."""
    _, nodes, how, amount = work.split()
    points, _ = clouds(int(nodes))
    x, line = torch.from_numpy(points).float(), CostLine.threshold(THRESHOLD)
    multicut(3, np.array([[0, 1], [1, 2], [0, 2]]), np.ones(3))  # compiled before the clock runs
    start = time.process_time()
    if how == "complete":
        labels = multicut_dense(complete_costs(x, line))
    else:
        if how == "sparse":
            edges, costs = sparse_costs(x, line, int(amount), int(amount))
            labels = multicut(int(nodes), edges, costs)
        else:
            edges = np.stack(np.triu_indices(int(nodes), 1), axis=1)
            costs = complete_costs(x, line)[edges[:, 0], edges[:, 1]]
            labels = multicut_in_parts(int(nodes), edges, costs, int(amount)).labels
    taken = time.process_time() - start
    high = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    energy, clusters = complete_energy(x, line, labels), len(np.unique(labels))
    print(
        f"  {work:28s} {taken:7.1f} CPU s   peak {high:6.0f} MB   energy {energy:.1f}, {clusters} clusters", flush=True
    )


def _squared(points: np.ndarray) -> np.ndarray:
    norms = (points**2).sum(1)
    return norms[:, None] + norms - 2 * points @ points.T


def bioimage(nodes: int, edges: np.ndarray, costs: np.ndarray) -> np.ndarray:
    from bioimage_cpp.graph import UndirectedGraph
    from bioimage_cpp.graph.multicut import KernighanLinMulticut, MulticutObjective

    objective = MulticutObjective(UndirectedGraph.from_edges(nodes, edges.astype(np.uint64)), costs)
    return np.asarray(KernighanLinMulticut().optimize(objective))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--skip-multicut", action="store_true")
    parser.add_argument("--scale", type=int)
    options = parser.parse_args()
    compare_losses(options.rounds)
    works = ["triplet_loss", "two_margin_loss"]
    if not options.skip_multicut:
        works += [f"{solver} {nodes}" for nodes in (500, 1000, 2000) for solver in ("bioimage-cpp", "multicut")]
    if options.scale:
        ways = ("complete 0", "sparse 50", "sparse 150", "parts 8")
        works += [f"scale {options.scale} {way}" for way in ways]
    print("B = 2048 x 128, and complete graphs:")
    context = multiprocessing.get_context("spawn")  # a fork would inherit this process's memory
    for work in works:
        process = context.Process(target=peak, args=(work,))
        process.start()
        process.join()
        if process.exitcode:
            sys.exit(f"{work} failed.")


if __name__ == "__main__":
    main()
