"""Radial log-spectra per second against the definition in NumPy, image by image, on the same float64 images.

Run ``python benchmarks/spectrum.py [--size 128 256 512 1024] [--batch 64] [--rounds 5]``. CPU with one thread, rounds
interleaved; then the GPU where there is one, beside NumPy's time of the CPU. NumPy runs twice: ``by sorting`` is the
definition as it is usually written (sorted radii, cumulative sums), ``by counting`` one with ``bincount`` and radii
that are computed once. Ratios are medians of the rounds' ratios. Goal: at 256 pixels and batch 64 at least 5 times
faster than the definition on one CPU thread, with the same numbers.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from functional.spectrum import radial_log_spectrum

Array = np.ndarray[tuple[int, ...], np.dtype[np.float64]]


def by_sorting(gray: Array) -> Array:
    """Published definition with radii sorted for each image."""
    height, width = gray.shape
    magnitude = 20 * np.log(np.abs(np.fft.fftshift(np.fft.fft2(gray)) + 1e-8))
    rows, columns = np.indices(gray.shape)
    radius = np.hypot(columns - (width - 1) / 2, rows - (height - 1) / 2).ravel()
    order = np.argsort(radius)
    last = np.flatnonzero(np.diff(radius[order].astype(int)))
    sums = np.cumsum(magnitude.ravel()[order])[last]
    return np.diff(sums) / np.diff(last)


def radii(size: int) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    """Ring of each pixel of the shifted plane."""
    offset = np.arange(size) - (size - 1) / 2
    return np.hypot(offset[:, None], offset).astype(int).ravel()


def by_counting(gray: Array, ring: np.ndarray[tuple[int, ...], np.dtype[np.int64]]) -> Array:
    """Published definition with the rings given."""
    magnitude = 20 * np.log(np.abs(np.fft.fftshift(np.fft.fft2(gray)) + 1e-8)).ravel()
    return (np.bincount(ring, magnitude) / np.bincount(ring))[1:-1]


def seconds(run: Callable[[], object], device: str) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    run()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def compare(gray: Tensor, rounds: int, device: str) -> None:
    """Print time, rate and ratio on a batch, and the largest difference of the numbers."""
    size, arrays = gray.shape[-1], list(gray.numpy())
    ring = radii(size)
    on_device = gray.to(device)
    single = on_device.float()
    few = arrays[: max(1, len(arrays) // 8)]  # NumPy takes each image alone; a share of the batch is enough
    runs: dict[str, tuple[Callable[[], object], int]] = {
        "NumPy by sorting": (lambda: [by_sorting(image) for image in few], len(few)),
        "NumPy by counting": (lambda: [by_counting(image, ring) for image in few], len(few)),
        "ours, float64": (lambda: radial_log_spectrum(on_device), len(gray)),
        "ours, float32": (lambda: radial_log_spectrum(single), len(gray)),
    }
    expected = torch.from_numpy(
        np.stack([by_counting(image, ring) for image in few])
    )  # sorting sums up rounding errors
    apart = [(radial_log_spectrum(x[: len(few)]).cpu().double() - expected).abs().max() for x in (on_device, single)]
    times: dict[str, list[float]] = {name: [] for name in runs}
    for index in range(rounds + 1):
        for name, (run, count) in runs.items():
            taken = seconds(run, device) / count
            if index:
                times[name].append(taken)
    print(f"\n{device}, {size} x {size}, batch {len(gray)}; largest difference {apart[0]:.1e}, float32 {apart[1]:.1e}")
    print(f"{'':18s} {'ms/image':>9s} {'images/s':>9s} {'x by sorting':>13s} {'x by counting':>14s}")
    for name, measured in times.items():
        middle = statistics.median(measured)
        ratios = [
            statistics.median(a / b for a, b in zip(times[other], measured, strict=True))
            for other in ("NumPy by sorting", "NumPy by counting")
        ]
        print(f"{name:18s} {1e3 * middle:9.3f} {1 / middle:9.0f} {ratios[0]:13.1f} {ratios[1]:14.1f}")


@torch.no_grad()
def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, nargs="+", default=[128, 256, 512, 1024])
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"load average {os.getloadavg()[0]:.2f} on {os.cpu_count()} cores")
    rng = np.random.default_rng(0)
    for size in options.size:
        gray = torch.from_numpy(rng.integers(0, 256, (options.batch, size, size)).astype(np.float64))
        for device in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
            compare(gray, options.rounds, device)
    print(f"\nload average {os.getloadavg()[0]:.2f}")


if __name__ == "__main__":
    main()
