"""Speed of a point of a loss landscape, against loading a state dictionary, and of two processes against one.

One thread per process. CPU seconds of a point for the plain way, as GradVis' code has it (a new state dictionary, the
network in training mode, gradients on), and for ours (parameters written in place, evaluation mode, no graph, channels
last). Then the wall time of one grid on one process and on two, which a busy machine spoils.

    python benchmarks/landscape.py
    python benchmarks/landscape.py --network resnet50 --device cuda
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, multiprocessing, nn

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from curvature_data import LeNet, ResNet20, cross_entropy, synthetic_images  # noqa: E402

from functional.landscape import grid_losses, mean_loss, random_direction  # noqa: E402

WORK: dict[str, tuple[type[nn.Module], int, int]] = {"lenet": (LeNet, 2000, 250), "resnet20": (ResNet20, 128, 64)}


def prepared(name: str) -> tuple[nn.Module, list[tuple[Tensor, Tensor]], Tensor]:
    """Network in evaluation mode, batches, and two directions."""
    torch.manual_seed(0)
    network_class, count, size = WORK[name]
    network = network_class()
    directions = torch.stack([random_direction(list(network.parameters()), 0, index) for index in range(2)])
    return network.eval(), synthetic_images(count, size), directions


def plain_points(
    network: nn.Module, batches: list[tuple[Tensor, Tensor]], directions: Tensor, points: np.ndarray
) -> None:
    """A state dictionary per point, training mode, gradients on."""
    centre = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    names = [name for name, _ in network.named_parameters()]
    sizes = [centre[name].numel() for name in names]
    moves = [dict(zip(names, d.float().split(sizes), strict=True)) for d in directions]
    network.train()
    for x, y in points:
        state = dict(centre)
        for name in names:
            step = float(x) * moves[0][name] + float(y) * moves[1][name]
            state[name] = centre[name] + step.view_as(centre[name])
        network.load_state_dict(state)
        sum(F.cross_entropy(network(images), labels).item() for images, labels in batches)
    network.load_state_dict(centre)
    network.eval()


def our_points(
    network: nn.Module, batches: list[tuple[Tensor, Tensor]], directions: Tensor, points: np.ndarray
) -> list[float]:
    """Parameters in place."""
    loss = cross_entropy(network)
    steps = grid_losses(lambda: mean_loss(loss, batches), list(network.parameters()), directions, points)
    return [value for _, value in steps]


def channels_last(network: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> list[tuple[Tensor, Tensor]]:
    """What the callback does before it looks at a network."""
    network.to(memory_format=torch.channels_last)
    return [(images.contiguous(memory_format=torch.channels_last), labels) for images, labels in batches]


def compare(name: str, rounds: int) -> None:
    """Print CPU seconds per point and the ratio."""
    points = np.array([[0.1, 0.2], [-0.1, 0.3], [0.5, -0.2]])
    ratios, times = [], {"plain": [], "ours": []}
    plain_network, batches, directions = prepared(name)
    network, _, _ = prepared(name)
    fast = channels_last(network, batches)
    for index in range(rounds + 1):
        start = time.process_time()
        plain_points(plain_network, batches, directions, points)
        middle = time.process_time()
        our_points(network, fast, directions, points)
        end = time.process_time()
        if index:
            times["plain"].append((middle - start) / len(points))
            times["ours"].append((end - middle) / len(points))
            ratios.append(times["ours"][-1] / times["plain"][-1])
    medians = {way: statistics.median(taken) for way, taken in times.items()}
    print(
        f"{name:9s} CPU s per point: plain {medians['plain']:.3f}, ours {medians['ours']:.3f}, "
        f"ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    )


def share(rank: int, world: int, name: str, side: int, gate: object, answers: object) -> None:
    """Part of a grid in a process of its own; the time is that of the points."""
    torch.set_num_threads(1)
    network, batches, directions = prepared(name)
    fast = channels_last(network, batches)
    axis = np.linspace(-1, 1, side)
    points = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)[rank::world]
    our_points(network, fast, directions, points[:1])
    gate.wait()  # type: ignore[attr-defined]
    wall, cpu = time.perf_counter(), time.process_time()
    our_points(network, fast, directions, points)
    answers.put((time.perf_counter() - wall, time.process_time() - cpu))  # type: ignore[attr-defined]


def processes(name: str, side: int) -> None:
    """Print wall and CPU time of one grid on one process and on two."""
    context = multiprocessing.get_context("spawn")
    found = {}
    for world in (1, 2):
        gate, answers = context.Barrier(world), context.Queue()
        running = [context.Process(target=share, args=(r, world, name, side, gate, answers)) for r in range(world)]
        for process in running:
            process.start()
        parts = [answers.get() for _ in running]
        for process in running:
            process.join()
        found[world] = max(wall for wall, _ in parts), sum(cpu for _, cpu in parts)
    print(
        f"{name:9s} grid of {side} x {side}: 1 process {found[1][0]:.1f} s (CPU {found[1][1]:.1f}), 2 processes "
        f"{found[2][0]:.1f} s (CPU {found[2][1]:.1f}), {found[1][0] / found[2][0]:.2f} times faster"
    )


def on_device(name: str, device: str, points: int) -> None:
    """Seconds per grid point of a timm network at 224 pixels, 256 samples in batches of 64."""
    torch.manual_seed(0)
    network = timm.create_model(name).to(device).eval()
    directions = torch.stack([random_direction(list(network.parameters()), 0, index) for index in range(2)])
    batches = [(torch.randn(64, 3, 224, 224, device=device), torch.arange(64, device=device)) for _ in range(4)]
    fast = channels_last(network, batches)
    grid = np.random.default_rng(0).uniform(-1, 1, (points, 2))
    our_points(network, fast, directions, grid[:2])
    start = time.perf_counter()
    our_points(network, fast, directions, grid)
    place = torch.cuda.get_device_name() if device == "cuda" else device
    taken = (time.perf_counter() - start) / points
    print(f"{name} at 224 pixels, 256 samples, {place}: {taken:.4f} s per grid point")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", nargs="+", default=["lenet", "resnet20"], help="or a timm network with --device")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--side", type=int, default=9, help="points along each axis for the processes")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(
        f"load average {os.getloadavg()[0]:.2f} on {os.cpu_count()} cores; torch {torch.__version__}, one thread each"
    )
    for name in options.network:
        if name not in WORK or options.device != "cpu":
            on_device(name, options.device, 50)
            continue
        compare(name, options.rounds)
        processes(name, options.side)
    print(f"load average {os.getloadavg()[0]:.2f}")


if __name__ == "__main__":
    main()
