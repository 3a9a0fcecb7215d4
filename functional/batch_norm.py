"""What batch normalisation does while a loss is looked at away from where the network was trained."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

__all__ = ["BatchNormMode", "batch_norm_layers", "batch_norm_mode"]

BatchNormMode = Literal["eval", "train", "recompute"]


def batch_norm_layers(network: nn.Module) -> list[_BatchNorm]:
    """Layers that keep running statistics of their inputs."""
    return [layer for layer in network.modules() if isinstance(layer, _BatchNorm) and layer.running_mean is not None]


@contextmanager
def batch_norm_mode(network: nn.Module, mode: BatchNormMode) -> Iterator[Callable[[Callable[[], object]], None]]:
    """Evaluation mode for all layers, and a way for batch normalisation; everything is as before after the block.

    ``eval`` uses the running statistics, ``train`` those of each batch. ``recompute`` estimates running statistics
    anew at every point: call what this yields with a function that passes all batches through the network, then
    evaluate. In the other modes that call does nothing.

    Args:
        network: any module.
        mode: see above.

    Yields:
        A function that prepares a point.

    Raises:
        ValueError: if the mode is not one of these.
    """
    if mode not in ("eval", "train", "recompute"):
        raise ValueError(f"bn_mode={mode!r} is not one of eval, train, recompute.")
    modes = [(module, module.training) for module in network.modules()]
    layers = batch_norm_layers(network)
    kept = [({name: tensor.clone() for name, tensor in layer.named_buffers()}, layer.momentum) for layer in layers]

    def prepare(pass_all: Callable[[], object]) -> None:
        if mode != "recompute":
            return
        for layer in layers:
            layer.reset_running_stats()
            layer.momentum = None  # a plain mean over batches
            layer.train()
        pass_all()
        for layer in layers:
            layer.eval()

    try:
        network.eval()
        if mode == "train":
            for layer in layers:
                layer.train()
        yield prepare
    finally:
        with torch.no_grad():
            for layer, (buffers, momentum) in zip(layers, kept, strict=True):
                layer.momentum = momentum
                for name, tensor in layer.named_buffers():
                    tensor.copy_(buffers[name])
        for module, training in modes:
            module.training = training
