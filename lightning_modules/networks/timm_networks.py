"""Networks by their timm name, our own included."""

from __future__ import annotations

from typing import Any

import timm
from torch import nn

__all__ = ["create_network", "fixed_input_size"]


def fixed_input_size(name: str) -> bool:
    """Whether a network is built for one image size, as transformers are.

    Raises:
        ValueError: if timm has no such model.
    """
    if not timm.is_model(name):
        close = timm.list_models(f"*{name.split('_')[0]}*")[:8]
        raise ValueError(f"model.backbone={name!r} is no timm model. Similar names: {', '.join(close) or 'none'}.")
    config = timm.get_pretrained_cfg(name, allow_unregistered=True)
    return config is not None and bool(config.fixed_input_size)


def create_network(
    name: str, outputs: int, image_size: int | None, pretrained: bool, kwargs: dict[str, Any]
) -> nn.Module:
    """Create a network.

    Args:
        name: timm model name.
        outputs: of the last linear layer; 0 gives the features before it.
        image_size: side of the square input, for networks that are built for one size.
        pretrained: download timm's weights (network access).
        kwargs: further arguments of ``timm.create_model``.

    Returns:
        From images ``(B, 3, H, W)`` to ``(B, outputs)``.

    Raises:
        ValueError: if timm has no such model.
    """
    if fixed_input_size(name) and image_size:
        kwargs = {"img_size": image_size, **kwargs}
    network: nn.Module = timm.create_model(name, pretrained=pretrained, num_classes=outputs, **kwargs)
    return network
