"""A network's parameters as one vector, and what a batch is made of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

__all__ = ["batch_size", "flatten", "fork_seed", "random_vector", "split_like"]


def flatten(tensors: Sequence[Tensor]) -> Tensor:
    """Tensors one after the other as a vector ``(D,)``; a copy, without gradient."""
    return torch.cat([tensor.detach().reshape(-1) for tensor in tensors])


def split_like(vector: Tensor, parameters: Sequence[Tensor]) -> list[Tensor]:
    """Views of a vector ``(D,)`` with the shapes of the parameters.

    Raises:
        ValueError: if the vector has not as many entries as the parameters.
    """
    count = sum(parameter.numel() for parameter in parameters)
    if vector.shape != (count,):
        raise ValueError(f"The parameters have {count} entries, the vector has shape {tuple(vector.shape)}.")
    pieces = vector.split([parameter.numel() for parameter in parameters])
    return [piece.view(parameter.shape) for piece, parameter in zip(pieces, parameters, strict=True)]


def random_vector(size: int, seed: int, index: int = 0, signs: bool = False) -> Tensor:
    """Standard normal numbers, or random signs; the same on every device and process.

    Args:
        size: number of entries.
        seed: together with ``index`` the seed of the generator.
        index: number of the vector among those of one seed.
        signs: entries of -1 and 1 instead (Rademacher).

    Returns:
        Float64 vector on the CPU, shape ``(size,)``.
    """
    generator = torch.Generator().manual_seed((seed * 1_000_003 + index) % 2**63)
    if signs:
        return 2.0 * torch.randint(0, 2, (size,), generator=generator, dtype=torch.float64) - 1.0
    return torch.randn(size, generator=generator, dtype=torch.float64)


def batch_size(batch: Any) -> int:
    """Samples in a batch: the length of the first tensor that is found in it.

    Raises:
        ValueError: if it holds no tensor with a batch axis.
    """
    for tensor in _tensors(batch):
        if tensor.ndim:
            return len(tensor)
    raise ValueError(f"A {type(batch).__name__} without a tensor has no batch size.")


def _tensors(item: Any) -> Iterator[Tensor]:
    if isinstance(item, Tensor):
        yield item
    elif isinstance(item, dict):
        for value in item.values():
            yield from _tensors(value)
    elif isinstance(item, list | tuple):
        for value in item:
            yield from _tensors(value)


@contextmanager
def fork_seed(seed: int, device: torch.device) -> Iterator[None]:
    """Random numbers that start from a seed inside the block and go on as before after it."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield
