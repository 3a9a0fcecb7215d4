"""LeNet-5 (LeCun et al. 1998) with rectifiers, max-pooling and two dropouts, registered with timm.

Importing this module makes ``timm.create_model("lenet5")`` available.
"""

from __future__ import annotations

from typing import Any

from timm.models import register_model
from torch import Tensor, nn

from lightning_modules.networks.linear_head import LinearHead, without_download

__all__ = ["LeNet5", "lenet5"]


class LeNet5(LinearHead):
    """Two convolutions with pooling, then layers of 120, 84 and ``num_classes`` units, for 28 x 28 images.

    Args:
        num_classes: outputs of the last layer; 0 makes ``forward`` return the 84 features.
        in_chans: input channels.
        keep_first: probability that a unit of the layer of 120 is kept in training.
        keep_second: the same for the layer of 84.

    Raises:
        ValueError: if a probability is not in (0, 1].

    Source: Ram et al. 2019, Sec. 4: the network whose keep probabilities, learning rate, weight decay and momentum are
    searched for.
    """

    def __init__(
        self, num_classes: int = 10, in_chans: int = 3, keep_first: float = 1.0, keep_second: float = 1.0
    ) -> None:
        super().__init__()
        if not (0 < keep_first <= 1 and 0 < keep_second <= 1):
            raise ValueError(f"keep_first={keep_first} and keep_second={keep_second} must lie in (0, 1].")
        self.features = nn.Sequential(
            nn.Conv2d(in_chans, 6, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(6, 16, 5),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.hidden = nn.Sequential(
            nn.Linear(16 * 5 * 5, 120),
            nn.ReLU(),
            nn.Dropout(1 - keep_first),
            nn.Linear(120, 84),
            nn.ReLU(),
            nn.Dropout(1 - keep_second),
        )
        self.num_features = self.head_hidden_size = 84
        self.reset_classifier(num_classes)

    def forward_features(self, x: Tensor) -> Tensor:
        """Feature maps ``(B, 16, 5, 5)`` of images ``(B, C, 28, 28)``."""
        return self.features(x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Flatten and apply the hidden layers, ``(B, 84)``; unless ``pre_logits``, the last layer too."""
        x = self.hidden(x.flatten(1))
        return x if pre_logits else self.linear(x)


@register_model
def lenet5(pretrained: bool = False, **kwargs: Any) -> LeNet5:
    """LeNet-5 (62 k parameters with three input channels and ten classes)."""
    return LeNet5(**without_download("lenet5", pretrained, kwargs))
