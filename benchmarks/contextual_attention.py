"""Time and memory of contextual attention against the naive way, which keeps all patches' scores and weights.

    python benchmarks/contextual_attention.py [--sizes 128 256] [--channels 128] [--batch 1]

Maps are those of a generator at a quarter of the image's size. Memory is the peak of a process of its own, above what
it holds before the first call; forward and backward.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time

import torch
import torch.nn.functional as F
from torch import Tensor

from functional.contextual_attention import contextual_attention


def naive(foreground: Tensor, background: Tensor, mask: Tensor, scale: float = 10.0) -> Tensor:
    """Convolve each image with all of its own normalised patches, softmax, and transposed convolution of raw ones."""
    filled = []
    for asks, answers, hole in zip(foreground.split(1), background.split(1), mask.split(1), strict=True):
        low, channels = answers[..., ::2, ::2], answers.shape[1]
        patches = F.unfold(low, 3, padding=1)[0].T.reshape(-1, channels, 3, 3)
        raw = F.unfold(answers, 4, stride=2, padding=1)[0].T.reshape(-1, channels, 4, 4)
        touched = F.max_pool2d(F.max_pool2d(hole, 2), 3, 1, 1).flatten() > 0
        norm = patches.flatten(1).norm(dim=1).clamp_min(1e-4)[:, None, None, None]
        scores = F.conv2d(asks[..., ::2, ::2], patches / norm, padding=1)
        scores = scores.masked_fill(touched[None, :, None, None], -torch.inf)
        weights = (scale * scores).softmax(dim=1)
        cover = F.conv_transpose2d(torch.ones_like(weights[:, :1]), torch.ones(1, 1, 4, 4), stride=2, padding=1)
        filled.append(F.conv_transpose2d(weights, raw, stride=2, padding=1) / cover)
    return torch.cat(filled)


def measure(kind: str, size: int, channels: int, batch: int) -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    side = size // 4
    maps = torch.rand(batch, channels, side, side).requires_grad_()
    mask = torch.zeros(batch, 1, side, side)
    mask[..., side // 4 : side // 2, side // 4 : side // 2] = 1
    function = naive if kind == "naive" else contextual_attention
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    spent = []
    for _ in range(3):
        start = time.process_time()
        function(maps, maps, mask).square().sum().backward()
        spent.append(time.process_time() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(
        f"{size:5d} px  {side * side // 4:6d} patches  {kind:6s}  {min(spent):7.3f} s  {peak / 1024:8.1f} MiB",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[128, 256])
    parser.add_argument("--channels", type=int, default=128)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--kind", choices=["naive", "ours"])
    arguments = parser.parse_args()
    for size in arguments.sizes:
        if arguments.kind:
            measure(arguments.kind, size, arguments.channels, arguments.batch)
            continue
        for kind in ("naive", "ours"):
            options = ["--sizes", str(size), "--channels", str(arguments.channels), "--batch", str(arguments.batch)]
            subprocess.run([sys.executable, __file__, "--kind", kind, *options], check=True)


if __name__ == "__main__":
    main()
