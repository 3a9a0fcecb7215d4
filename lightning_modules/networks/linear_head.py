"""What our networks share: a last linear layer with timm's accessors, and factories that have nothing to download."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

__all__ = ["LinearHead", "without_download"]


class LinearHead(nn.Module):
    """Base of networks with ``forward_features`` and ``forward_head``, and a last layer called ``linear``.

    Subclasses set ``head_hidden_size``, the width before that layer, and call ``reset_classifier``.
    """

    head_hidden_size: int
    num_classes: int
    linear: nn.Module

    def get_classifier(self) -> nn.Module:
        """The last linear layer (timm's accessor)."""
        return self.linear

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the last linear layer (timm's accessor); ``num_classes=0`` removes it."""
        self.num_classes = num_classes
        self.linear = nn.Linear(self.head_hidden_size, num_classes) if num_classes else nn.Identity()

    def forward_features(self, x: Tensor) -> Tensor:
        """Feature maps ``(B, D, h, w)`` of images ``(B, C, H, W)``."""
        raise TypeError(f"{type(self).__name__} must say what its features are.")

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Features ``(B, head_hidden_size)`` of feature maps; unless ``pre_logits``, the last linear layer on them."""
        raise TypeError(f"{type(self).__name__} must say what comes after its features.")

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(B, num_classes)`` of images ``(B, C, H, W)``."""
        return self.forward_head(self.forward_features(x))


def without_download(name: str, pretrained: bool, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Arguments of a network from those that timm passes to every factory.

    Raises:
        ValueError: if weights are to be downloaded, for there are none.
    """
    if pretrained:
        raise ValueError(f"{name} has no weights to download; train it or name a file with `model.weights`.")
    return {key: value for key, value in kwargs.items() if not key.startswith(("pretrained_cfg", "cache_dir"))}
