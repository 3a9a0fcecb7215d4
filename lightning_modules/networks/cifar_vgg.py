"""VGG-16 for small images (Simonyan and Zisserman 2015), with and without batch normalisation, registered with timm.

The convolutions are numbered as everywhere (``features.0`` to ``features.43`` with batch normalisation), so that layers
named in papers are found. Importing this module makes ``timm.create_model("cifar_vgg16_bn")`` available.
"""

from __future__ import annotations

from typing import Any

from timm.models import register_model
from torch import Tensor, nn

from lightning_modules.networks.linear_head import LinearHead, without_download

__all__ = ["CifarVGG", "cifar_vgg16", "cifar_vgg16_bn"]

# Channels of the convolutions between two poolings.
_VGG16 = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


class CifarVGG(LinearHead):
    """Thirteen 3x3 convolutions in five groups, each followed by a 2x2 pooling, then a linear classifier.

    Args:
        num_classes: outputs of the last linear layer; 0 makes ``forward`` return the features before it.
        in_chans: input channels.
        batch_norm: normalise after each convolution.
        hidden: width of two further linear layers with dropout, 4096 in the original; 0 leaves them out.
        drop_rate: dropout after each hidden layer.
        width: channels of the first group, 64 in the original; all others scale with it.

    Raises:
        ValueError: if ``width`` is below 1.
    """

    def __init__(
        self,
        num_classes: int = 10,
        in_chans: int = 3,
        batch_norm: bool = True,
        hidden: int = 0,
        drop_rate: float = 0.5,
        width: int = 64,
    ) -> None:
        super().__init__()
        if width < 1:
            raise ValueError(f"width={width}: the first group needs at least one channel.")
        layers: list[nn.Module] = []
        channels = in_chans
        for group in _VGG16:
            for wanted in group:
                after = wanted * width // 64 or 1
                layers.append(nn.Conv2d(channels, after, 3, padding=1))
                layers += [nn.BatchNorm2d(after)] if batch_norm else []
                layers.append(nn.ReLU())
                channels = after
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.num_classes, self.num_features = num_classes, channels
        self.head_hidden_size = hidden or channels
        self.hidden = nn.Sequential(
            *(
                part
                for inputs in ((channels, hidden) if hidden else ())
                for part in (nn.Linear(inputs, hidden), nn.ReLU(), nn.Dropout(drop_rate))
            )
        )
        self.reset_classifier(num_classes)
        for module in self.features:
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward_features(self, x: Tensor) -> Tensor:
        """Feature maps ``(B, 8 * width, H / 32, W / 32)`` of images ``(B, C, H, W)``, H and W at least 32."""
        return self.features(x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Pool feature maps and apply the hidden layers; unless ``pre_logits``, the last linear layer too."""
        x = self.hidden(x.mean(dim=(2, 3)))
        return x if pre_logits else self.linear(x)


@register_model
def cifar_vgg16(pretrained: bool = False, **kwargs: Any) -> CifarVGG:
    """VGG-16 without normalisation (14.7 M parameters with ten classes and no hidden layer)."""
    return CifarVGG(batch_norm=False, **without_download("cifar_vgg16", pretrained, kwargs))


@register_model
def cifar_vgg16_bn(pretrained: bool = False, **kwargs: Any) -> CifarVGG:
    """VGG-16 with batch normalisation (14.7 M parameters with ten classes and no hidden layer)."""
    return CifarVGG(**without_download("cifar_vgg16_bn", pretrained, kwargs))
