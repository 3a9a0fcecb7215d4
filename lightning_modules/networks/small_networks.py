"""Two networks for embeddings of small images, registered with timm: a plain CNN and ResNet-18 without its coarse stem.

Importing this module makes ``timm.create_model("small_cnn")`` and ``timm.create_model("small_resnet18")`` available.
"""

from __future__ import annotations

from typing import Any

from timm.models import register_model
from timm.models.resnet import BasicBlock, ResNet
from torch import Tensor, nn

from lightning_modules.networks.linear_head import LinearHead, without_download

__all__ = ["SmallCNN", "small_cnn", "small_resnet18"]


class SmallCNN(LinearHead):
    """Three 3x3 convolutions with batch normalisation, two poolings, and a linear layer on 2 x 2 means.

    Args:
        num_classes: outputs of the linear layer; 0 makes ``forward`` return the features before it.
        in_chans: input channels.
        width: channels of the first convolution; the next two have twice and four times as many.

    Raises:
        ValueError: if ``width`` is below 1.
    """

    def __init__(self, num_classes: int = 10, in_chans: int = 3, width: int = 32) -> None:
        super().__init__()
        if width < 1:
            raise ValueError(f"width={width}: a convolution needs at least one channel.")
        layers: list[nn.Module] = []
        channels = in_chans
        for index in range(3):
            after = width * 2**index
            layers += [nn.Conv2d(channels, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
            layers.append(nn.MaxPool2d(2) if index < 2 else nn.AdaptiveAvgPool2d(2))
            channels = after
        self.features = nn.Sequential(*layers)
        self.num_classes, self.num_features = num_classes, channels
        self.head_hidden_size = 4 * channels
        self.reset_classifier(num_classes)

    def forward_features(self, x: Tensor) -> Tensor:
        """Feature maps ``(B, 4 * width, 2, 2)`` of images ``(B, C, H, W)``, H and W at least 4."""
        return self.features(x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Flatten to ``(B, 16 * width)``; unless ``pre_logits``, apply the linear layer."""
        x = x.flatten(1)
        return x if pre_logits else self.linear(x)


@register_model
def small_cnn(pretrained: bool = False, **kwargs: Any) -> SmallCNN:
    """Three convolutions (95 k parameters with ten classes at width 32), for images from 4 x 4."""
    return SmallCNN(**without_download("small_cnn", pretrained, kwargs))


@register_model
def small_resnet18(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNet-18 for 32 x 32 images: a 3x3 first layer of stride 1 and no pooling after it (11.2 M parameters)."""
    block: Any = BasicBlock
    network: Any = ResNet(block, (2, 2, 2, 2), **without_download("small_resnet18", pretrained, kwargs))
    channels = network.conv1.in_channels
    network.conv1 = nn.Conv2d(channels, 64, 3, 1, 1, bias=False)
    nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
    network.maxpool = nn.Identity()
    return network
