"""Speed of Hessian products and of the two largest eigenvalues, against the plain way and curvlinops.

One thread, CPU seconds of this process, all ways in one run on the same trained network and the same batches. The plain
product differentiates the gradient of each batch anew; PyHessian-style power iteration uses it, with deflation.

    python benchmarks/curvature.py                      LeNet on 2000 images
    python benchmarks/curvature.py --network resnet20   ResNet-20 on 128 images
    python benchmarks/curvature.py --network resnet50 --device cuda   seconds per Lanczos step at 224 pixels
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from scipy.sparse.linalg import eigsh
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from curvature_data import LeNet, ResNet20, cross_entropy, synthetic_images, train  # noqa: E402

from functional.curvature import HessianOperator, eigenpairs, lanczos  # noqa: E402
from functional.parameter_vectors import random_vector  # noqa: E402

Batches = list[tuple[Tensor, Tensor]]
WORK: dict[str, tuple[type[nn.Module], int, int, int]] = {
    "lenet": (LeNet, 2000, 250, 8),
    "resnet20": (ResNet20, 128, 64, 3),
}


def cpu_seconds(run: Callable[[], Any]) -> tuple[float, Any]:
    """CPU time of one call, and what it returns."""
    start = time.process_time()
    result = run()
    return time.process_time() - start, result


def plain_product(network: nn.Module, batches: Batches, vector: Tensor) -> Tensor:
    """Two backward passes per batch, added up with the batches' weights."""
    parameters = list(network.parameters())
    pieces = [
        part.view_as(p) for part, p in zip(vector.split([p.numel() for p in parameters]), parameters, strict=True)
    ]
    total, samples = torch.zeros_like(vector), sum(len(labels) for _, labels in batches)
    for images, labels in batches:
        gradients = torch.autograd.grad(F.cross_entropy(network(images), labels), parameters, create_graph=True)
        products = torch.autograd.grad(gradients, parameters, pieces)
        total += torch.cat([product.reshape(-1) for product in products]) * (len(labels) / samples)
    return total


def power_iteration(product: Callable[[Tensor], Tensor], size: int, count: int, tolerance: float) -> list[float]:
    """Largest eigenvalues in size, one after the other, each outside the span of those before."""
    found: list[Tensor] = []
    values: list[float] = []
    for index in range(count):
        vector, before = random_vector(size, 1, index).float(), None
        for _ in range(100):
            for other in found:
                vector = vector - other * (other @ vector)
            vector = vector / vector.norm()
            image = product(vector)
            value = float(image @ vector)
            vector = image
            if before is not None and abs(value - before) / (abs(before) + 1e-6) < tolerance:
                break
            before = value
        found.append(vector / vector.norm())
        values.append(value)
    return values


def compare(name: str, rounds: int) -> None:
    """Print CPU seconds and ratios."""
    from curvlinops import HessianLinearOperator

    network_class, count, size, epochs = WORK[name]
    batches = synthetic_images(count, size)
    network, _ = train(network_class, epochs, batches)
    parameters, loss = list(network.parameters()), cross_entropy(network)
    library = HessianLinearOperator(network, nn.CrossEntropyLoss(), parameters, batches, check_deterministic=False)
    fresh = HessianOperator(loss, parameters, batches)
    kept = HessianOperator(loss, parameters, batches, keep_graphs=True)
    vector = random_vector(fresh.size, 0).float()
    ways: dict[str, Callable[[], Tensor]] = {
        "plain double backward": lambda: plain_product(network, batches, vector),
        "curvlinops": lambda: library @ vector,
        "ours": lambda: fresh @ vector,
        "ours, graphs kept": lambda: kept @ vector,
    }
    times: dict[str, list[float]] = {way: [] for way in ways}
    products = {}
    for index in range(rounds + 1):
        for way, run in ways.items():
            taken, products[way] = cpu_seconds(run)
            if index:
                times[way].append(taken)
    print(f"\n{name}: {fresh.size} parameters, {count} samples in batches of {size}; Hessian product")
    report(times, "plain double backward")
    apart = {way: float((p - products["ours"]).norm() / products["ours"].norm()) for way, p in products.items()}
    print("distance to ours: " + ", ".join(f"{way} {value:.1e}" for way, value in apart.items()))

    kept.release()
    steps: dict[str, int] = {}

    def ours() -> list[float]:
        operator = HessianOperator(loss, parameters, batches, keep_graphs=True)
        found = eigenpairs(operator.matvec, vector, top=2, tolerance=1e-3)
        steps["ours, graphs kept"] = operator.products
        return [float(value) for value in found.top]

    def arpack() -> list[float]:
        counted: list[int] = []
        scipy_operator = library.to_scipy()
        matvec = scipy_operator._matvec
        scipy_operator._matvec = lambda x: (counted.append(1), matvec(x))[1]
        values = eigsh(scipy_operator, k=2, which="LA", tol=1e-3, v0=vector.numpy(), return_eigenvectors=True)[0]
        steps["curvlinops + ARPACK"] = len(counted)
        return sorted(map(float, values), reverse=True)

    def power() -> list[float]:
        counted: list[int] = []

        def product(direction: Tensor) -> Tensor:
            counted.append(1)
            return plain_product(network, batches, direction)

        values = power_iteration(product, fresh.size, 2, 1e-3)
        steps["power iteration"] = len(counted)
        return values

    searches = {"curvlinops + ARPACK": arpack, "power iteration": power, "ours, graphs kept": ours}
    times = {}
    values: dict[str, list[float]] = {}
    for way, search in searches.items():
        taken, values[way] = cpu_seconds(search)
        times[way] = [taken]
    print(f"\n{name}: two largest eigenvalues, relative tolerance 1e-3")
    report(times, "curvlinops + ARPACK")
    for way, pair in values.items():
        print(f"  {way:24s} {pair[0]:.3f} {pair[1]:.3f} after {steps[way]} products")


def report(times: dict[str, list[float]], base: str) -> None:
    """A line per way: median seconds, and the median of its ratios to the base."""
    for way, taken in times.items():
        ratio = statistics.median(a / b for a, b in zip(taken, times[base], strict=True))
        print(f"  {way:24s} {statistics.median(taken):8.3f} CPU s   {ratio:5.2f} x {base}")


def on_device(name: str, device: str, steps: int) -> None:
    """Seconds per Lanczos step of a timm network at 224 pixels, 256 samples in batches of 32."""
    torch.manual_seed(0)
    network = timm.create_model(name).to(device).eval()
    batches = [(torch.randn(32, 3, 224, 224, device=device), torch.arange(32, device=device)) for _ in range(8)]
    operator = HessianOperator(cross_entropy(network), list(network.parameters()), batches)
    start = random_vector(operator.size, 0).to(device, torch.float32)
    lanczos(operator.matvec, start, 1)
    if device == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    found = lanczos(operator.matvec, start, steps)
    if device == "cuda":
        torch.cuda.synchronize()
    taken = (time.perf_counter() - began) / len(found.diagonal)
    place = torch.cuda.get_device_name() if device == "cuda" else device
    print(f"{name} at 224 pixels, 256 samples, {place}: {taken:.3f} s per Lanczos step")


def main() -> None:
    """Measure and print."""
    warnings.filterwarnings("ignore", message="`torch.jit.script` is deprecated")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="lenet", help="lenet, resnet20, or a timm network with --device")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--steps", type=int, default=10)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"load average {os.getloadavg()[0]:.2f} on {os.cpu_count()} cores; torch {torch.__version__}, one thread")
    if options.network in WORK and options.device == "cpu":
        compare(options.network, options.rounds)
    else:
        on_device(options.network, options.device, options.steps)
    print(f"load average {os.getloadavg()[0]:.2f}")


if __name__ == "__main__":
    main()
