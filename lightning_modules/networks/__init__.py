"""Networks that timm does not have; importing the room registers them with timm."""

from lightning_modules.networks.cifar_resnet import CifarResNet

__all__ = ["CifarResNet"]
