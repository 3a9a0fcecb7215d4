"""Residual networks for small images (He et al. 2016, Sec. 4.2), registered with timm.

No stem pooling and a stride-1 first layer: pixel-level traces (codec lattices, up-sampling
periodicities) reach the first residual stage untouched, which is why the demos use them as detectors too.
Importing this module makes ``timm.create_model("cifar_resnet20")`` and its siblings available.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from timm.models import register_model
from torch import Tensor, nn

from lightning_modules.networks.linear_head import LinearHead, without_download

__all__ = ["CifarResNet", "cifar_resnet8", "cifar_resnet20", "cifar_resnet32", "cifar_resnet56"]


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a parameter-free shortcut (option A: subsample and zero-pad channels)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.stride = stride
        self.new_channels = out_channels - in_channels

    def forward(self, x: Tensor) -> Tensor:
        residual = F.relu(self.bn1(self.conv1(x)))
        residual = self.bn2(self.conv2(residual))
        if self.stride != 1 or self.new_channels:
            before = self.new_channels // 2
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, before, self.new_channels - before))
        return F.relu(residual + x)


class CifarResNet(LinearHead):
    """ResNet with three stages of ``(depth - 2) / 6`` basic blocks, for inputs of any size from 8 x 8.

    Parameter names are those of the widely shared CIFAR-10 weights (``conv1``, ``layer1.0.conv1``, ...,
    ``linear``), so such files load with ``load_state_dict``.

    Args:
        depth: number of weighted layers, ``6 n + 2``.
        num_classes: outputs of the linear layer; 0 makes ``forward`` return the pooled features.
        in_chans: input channels.
        width: channels of the first stage; the next two have twice and four times as many.
        drop_rate: dropout before the linear layer.

    Raises:
        ValueError: if ``depth`` is not ``6 n + 2``.
    """

    def __init__(
        self, depth: int = 20, num_classes: int = 10, in_chans: int = 3, width: int = 16, drop_rate: float = 0.0
    ) -> None:
        super().__init__()
        if depth < 8 or (depth - 2) % 6:
            raise ValueError(f"depth={depth}: a CIFAR ResNet has 6n + 2 layers, e.g. 8, 20, 32, 44, 56.")
        blocks = (depth - 2) // 6
        self.num_features = self.head_hidden_size = 4 * width
        self.conv1 = nn.Conv2d(in_chans, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = self._stage(width, width, blocks, stride=1)
        self.layer2 = self._stage(width, 2 * width, blocks, stride=2)
        self.layer3 = self._stage(2 * width, 4 * width, blocks, stride=2)
        self.drop = nn.Dropout(drop_rate)
        self.reset_classifier(num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    @staticmethod
    def _stage(in_channels: int, out_channels: int, blocks: int, stride: int) -> nn.Sequential:
        return nn.Sequential(
            BasicBlock(in_channels, out_channels, stride),
            *(BasicBlock(out_channels, out_channels, 1) for _ in range(blocks - 1)),
        )

    def forward_features(self, x: Tensor) -> Tensor:
        """Feature maps ``(B, 4 * width, H / 4, W / 4)`` of images ``(B, C, H, W)``."""
        x = F.relu(self.bn1(self.conv1(x)))
        return self.layer3(self.layer2(self.layer1(x)))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Pool feature maps to ``(B, 4 * width)``; unless ``pre_logits``, apply the linear layer."""
        x = self.drop(x.mean(dim=(2, 3)))
        return x if pre_logits else self.linear(x)


@register_model
def cifar_resnet8(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """CIFAR ResNet-8 (78 k parameters at width 16)."""
    return CifarResNet(8, **without_download("cifar_resnet8", pretrained, kwargs))


@register_model
def cifar_resnet20(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """CIFAR ResNet-20 (270 k parameters at width 16)."""
    return CifarResNet(20, **without_download("cifar_resnet20", pretrained, kwargs))


@register_model
def cifar_resnet32(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """CIFAR ResNet-32 (460 k parameters at width 16)."""
    return CifarResNet(32, **without_download("cifar_resnet32", pretrained, kwargs))


@register_model
def cifar_resnet56(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """CIFAR ResNet-56 (850 k parameters at width 16)."""
    return CifarResNet(56, **without_download("cifar_resnet56", pretrained, kwargs))
