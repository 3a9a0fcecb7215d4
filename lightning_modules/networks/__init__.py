"""Networks that timm does not have; importing the room registers them with timm."""

from lightning_modules.networks.cifar_resnet import CifarResNet
from lightning_modules.networks.cifar_vgg import CifarVGG
from lightning_modules.networks.lenet import LeNet5
from lightning_modules.networks.small_networks import SmallCNN
from lightning_modules.networks.timm_networks import create_network, fixed_input_size
from lightning_modules.networks.weights import load_weights

__all__ = ["CifarResNet", "CifarVGG", "LeNet5", "SmallCNN", "create_network", "fixed_input_size", "load_weights"]
