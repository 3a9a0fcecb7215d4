"""Outputs of chosen layers of a network."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

__all__ = ["layer_activations"]


def layer_activations(network: nn.Module, x: Tensor, layers: Sequence[str]) -> tuple[Tensor, list[Tensor]]:
    """Output of a network, and of some of its layers on the way, in one forward pass.

    A network compiled with ``torch.compile`` runs uncompiled here: compiled code does not see hooks.

    Args:
        network: left as it was found.
        x: its input, shape ``(B, ...)``.
        layers: names as in ``network.named_modules()``.

    Returns:
        The output, and the outputs of the layers in the order of their names. A layer that is called more than once
        gives its last output.

    Raises:
        ValueError: if a layer does not exist, was not called, or gives no tensor.
    """
    modules = dict(network.named_modules())
    unknown = [name for name in layers if name not in modules or not name]
    if unknown:
        names = ", ".join(name for name in modules if name)
        raise ValueError(f"{type(network).__name__} has no layer {unknown[0]!r}. It has {names}.")
    seen: dict[str, Any] = {}

    def keep(module: nn.Module, inputs: Any, output: Any, name: str) -> None:
        seen[name] = output

    handles = [modules[name].register_forward_hook(partial(keep, name=name)) for name in layers]
    try:
        output = network.forward(x)
    finally:
        for handle in handles:
            handle.remove()
    for name in layers:
        if not isinstance(seen.get(name), Tensor):
            what = type(seen[name]).__name__ if name in seen else "nothing, it is not called"
            raise ValueError(f"Layer {name!r} of {type(network).__name__} gives {what}; name one that gives a tensor.")
    return output, [seen[name] for name in layers]
