"""JPEG round trips per second: ours against Pillow (encode and decode, one thread) and kornia, on the same images.

Run ``python benchmarks/jpeg.py [--quality 75 96] [--batch 16] [--rounds 9]``. CPU with one thread, rounds interleaved;
then the GPU, where there is one, with ``--gpu-batch`` images and Pillow's time of the CPU. Ratios are medians of the
rounds' ratios. Goals: on one CPU thread at least 3 times faster than kornia and at most 2 times Pillow's time.
"""

from __future__ import annotations

import argparse
import io
import os
import statistics
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from kornia.enhance import jpeg_codec_differentiable
from PIL import Image
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from functional.jpeg import jpeg_roundtrip


def pictures(count: int, size: int) -> Tensor:
    """Colour images with a 1/f amplitude spectrum, uint8, ``(count, 3, size, size)``."""
    rng = np.random.default_rng(0)
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.fftfreq(size))
    frequency[0, 0] = 1
    spectrum = np.fft.fft2(rng.normal(size=(count, 3, size, size))) / frequency
    field = np.fft.ifft2(spectrum).real
    return torch.from_numpy((field / field.std() * 50 + 128).round().clip(0, 255).astype(np.uint8))


def with_pillow(images: Sequence[np.ndarray], quality: int, subsampling: str) -> list[np.ndarray]:
    """Encode and decode arrays ``(H, W, 3)``."""
    results = []
    for image in images:
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "JPEG", quality=quality, subsampling=subsampling)
        results.append(np.asarray(Image.open(buffer)))
    return results


def seconds(run: Callable[[], object], device: str) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    run()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def peak_megabytes(run: Callable[[], object], device: str) -> float:
    """Most memory that a call holds in tensors beside its input."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        run()
    events = [event for event in recorded.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = np.cumsum([event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())])
    return float(held.max(initial=0)) / 2**20


def compare(images: Tensor, quality: int, subsampling: str, rounds: int, device: str) -> None:
    """Print the time, rate and peak memory of each codec on a batch."""
    arrays = list(images.permute(0, 2, 3, 1).contiguous().numpy())
    pixels = images.to(device)
    floating = pixels.float() / 255
    qualities = torch.full((len(images),), float(quality), device=device)
    runs: dict[str, Callable[[], object]] = {
        "Pillow": lambda: with_pillow(arrays, quality, subsampling),
        "ours, uint8": lambda: jpeg_roundtrip(pixels, quality, subsampling),
        "ours, float32": lambda: jpeg_roundtrip(floating, quality, subsampling),
    }
    if subsampling == "4:2:0":  # the only one that kornia has
        runs["kornia, float32"] = lambda: jpeg_codec_differentiable(floating, qualities)
    expected = torch.from_numpy(np.stack(with_pillow(arrays, quality, subsampling))).permute(0, 3, 1, 2)
    different = (jpeg_roundtrip(pixels, quality, subsampling).cpu() != expected).sum()
    times: dict[str, list[float]] = {name: [] for name in runs}
    for index in range(rounds + 2):
        for name, run in runs.items():
            taken = seconds(run, device)
            if index >= 2:
                times[name].append(taken)
    print(
        f"\n{device}, quality {quality}, {subsampling}, batch {len(images)} of {images.shape[-1]} x {images.shape[-2]}"
    )
    print(f"{int(different)} values differ from Pillow's")
    print(f"{'':16s} {'ms/image':>9s} {'best':>7s} {'images/s':>9s} {'x Pillow':>9s} {'peak MiB':>9s}")
    for name, measured in times.items():
        each = [1e3 * value / len(images) for value in measured]
        ratio = statistics.median(a / b for a, b in zip(measured, times["Pillow"], strict=True))
        peak = "" if name == "Pillow" else f"{peak_megabytes(runs[name], device):.1f}"
        middle = statistics.median(each)
        print(f"{name:16s} {middle:9.3f} {min(each):7.3f} {1e3 / middle:9.0f} {ratio:9.2f} {peak:>9s}")
    if "kornia, float32" in times:
        pairs = zip(times["kornia, float32"], times["ours, float32"], strict=True)
        print(f"kornia takes {statistics.median(a / b for a, b in pairs):.1f} times as long as ours on float32")


@torch.no_grad()
def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quality", type=int, nargs="+", default=[75, 96])
    parser.add_argument("--subsampling", nargs="+", default=["4:2:0"])
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--gpu-batch", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"load average {os.getloadavg()[0]:.2f} on {os.cpu_count()} cores")
    for device, batch in (("cpu", options.batch), ("cuda", options.gpu_batch)):
        if device == "cuda" and not torch.cuda.is_available():
            continue
        images = pictures(batch, options.size)
        for quality in options.quality:
            for subsampling in options.subsampling:
                compare(images, quality, subsampling, options.rounds, device)
    print(f"\nload average {os.getloadavg()[0]:.2f}")


if __name__ == "__main__":
    main()
