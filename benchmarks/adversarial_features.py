"""LayerMFS of images per second against the way it is usually written: image by image, spectra by NumPy.

Run ``python benchmarks/adversarial_features.py [--images 1000] [--batch 16] [--rounds 3]``. CPU with one thread, rounds
interleaved, networks without training (their weights do not matter for speed); then the GPU where there is one. NumPy's
way looks at a tenth of the images, its time is per image. ``spectra`` leaves the network out: the same feature maps in
both ways; ``network`` is its forward pass alone, one by one and in batches. Ratios are medians of the rounds' ratios.

Goal: LayerMFS of 1,000 images at least 5 times faster on one CPU thread, with the same numbers, and no more memory for
more images of the same batch. On a CPU thread the ratio cannot exceed that of ``network`` by much, and that is 2 to 3:
there the first half of the goal is out of reach, whatever the spectra cost.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from functional.activations import layer_activations
from functional.adversarial_features import magnitude_spectrum
from lightning_modules import ImageClassifier
from lightning_modules.victim_features import VictimFeatures
from lightning_modules.victim_layers import observed_layers

Array = np.ndarray[tuple[int, ...], np.dtype[np.float64]]


def by_numpy(maps: list[Tensor]) -> Array:
    """Spectra of the maps of one image."""
    return np.concatenate([np.abs(np.fft.fft2(part[0].cpu().numpy())).ravel() for part in maps])


def image_by_image(victim: ImageClassifier, layers: list[str], images: Tensor) -> list[Array]:
    """The usual way."""
    return [by_numpy(layer_activations(victim.backbone, victim.normalize(x[None]), layers)[1]) for x in images]


def in_batches(victim: ImageClassifier, features: VictimFeatures, images: Tensor, batch: int) -> Tensor:
    """Ours; only the sum is kept, as a fit by moments would do."""
    total = torch.zeros((), device=images.device)
    for part in images.split(batch):
        total = total + features(victim, part)[1].sum(dim=0)
    return total


def seconds(run: Callable[[], object], device: str) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    run()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def compare(network: str, images: Tensor, options: argparse.Namespace, device: str) -> None:
    """Print time and ratio for one network, and the largest relative difference of the numbers."""
    victim = ImageClassifier(network, num_classes=10).eval().to(device)
    features, layers = VictimFeatures("layer_mfs"), observed_layers(victim.backbone, spectral=True)
    images, few = images.to(device), images[: max(1, len(images) // 10)].to(device)
    maps = layer_activations(victim.backbone, victim.normalize(images[: options.batch]), layers)[1]
    runs: dict[str, tuple[Callable[[], object], int]] = {
        "LayerMFS, NumPy": (lambda: image_by_image(victim, layers, few), len(few)),
        "LayerMFS, ours": (lambda: in_batches(victim, features, images, options.batch), len(images)),
        "network, one by one": (lambda: [victim(x[None]) for x in few], len(few)),
        "network, in batches": (lambda: [victim(part) for part in images.split(options.batch)], len(images)),
        "spectra, NumPy": (
            lambda: [by_numpy([part[i : i + 1] for part in maps]) for i in range(len(maps[0]))],
            len(maps[0]),
        ),
        "spectra, ours": (lambda: [magnitude_spectrum(part) for part in maps], len(maps[0])),
    }
    expected = torch.from_numpy(np.stack(image_by_image(victim, layers, few[:8])))
    apart = ((features(victim, few[:8])[1].cpu() - expected).abs() / expected.abs().max()).max()
    times: dict[str, list[float]] = {name: [] for name in runs}
    for index in range(options.rounds + 1):
        for name, (run, count) in runs.items():
            taken = seconds(run, device) / count
            if index:
                times[name].append(taken)
    print(f"\n{network} on {device}, {expected.shape[1]} features, batch {options.batch}; difference {apart:.1e}")
    for ours, other in (
        ("LayerMFS, ours", "LayerMFS, NumPy"),
        ("network, in batches", "network, one by one"),
        ("spectra, ours", "spectra, NumPy"),
    ):
        ratio = statistics.median(a / b for a, b in zip(times[other], times[ours], strict=True))
        middle = [1e3 * statistics.median(times[name]) for name in (other, ours)]
        print(f"{ours:20s} {middle[0]:8.3f} -> {middle[1]:7.3f} ms/image, {ratio:5.1f} times faster")


def memory(network: str, images: Tensor, batch: int) -> None:
    """Print by how much the peak of the process grows from few images to many, and what all features would take."""
    victim, features = ImageClassifier(network, num_classes=10).eval(), VictimFeatures("layer_mfs")
    in_batches(victim, features, images[: 10 * batch], batch)  # the allocator has settled by then
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    total = in_batches(victim, features, images, batch)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    whole = len(images) * total.numel() * 4 / 2**20
    print(
        f"{network}: peak memory grows by {grown:.0f} MiB from {10 * batch} to {len(images)} images, of {whole:.0f} MiB"
    )


@torch.no_grad()
def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", nargs="+", default=["cifar_resnet20", "cifar_vgg16_bn"])
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(f"load average {os.getloadavg()[0]:.2f} on {os.cpu_count()} cores")
    images = torch.rand(options.images, 3, 32, 32)
    for network in options.networks:
        memory(network, images, options.batch)
    for network in options.networks:
        for device in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
            compare(network, images, options, device)
    print(f"\nload average {os.getloadavg()[0]:.2f}")


if __name__ == "__main__":
    main()
