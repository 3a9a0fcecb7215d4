"""Small problems whose curvature is known, and the LeNet and ResNet-20 on which speed is compared."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SPECTRUM = [100.0, 10.0] + 40 * [1.0] + [-1.0] + 7 * [-0.01]


class Bowl(nn.Module):
    """Quadratic loss with a known spectrum around a known point, the same for every sample."""

    def __init__(self, seed: int = 0, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        size = len(SPECTRUM)
        rotation, _ = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))
        self.matrix = ((rotation * torch.tensor(SPECTRUM, dtype=torch.float64)) @ rotation.T).to(dtype)
        self.minimum = torch.randn(size, generator=generator, dtype=torch.float64).to(dtype)
        self.first = nn.Parameter(torch.randn(5, 6, generator=generator, dtype=torch.float64).to(dtype))
        self.second = nn.Parameter(torch.randn(20, generator=generator, dtype=torch.float64).to(dtype))

    def value(self, point: Tensor) -> Tensor:
        offset = point - self.minimum
        return 0.5 * offset @ self.matrix @ offset

    def objective(self, batch: object) -> Tensor:
        return self.value(torch.cat([self.first.flatten(), self.second]))


def synthetic_images(count: int, batch_size: int, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    """Ten classes of low-frequency patterns under noise, in batches ``(B, 3, 32, 32)`` with labels."""
    generator = torch.Generator().manual_seed(seed)
    patterns = F.interpolate(torch.randn(10, 3, 4, 4, generator=generator), 32, mode="bilinear", align_corners=False)
    labels = (torch.arange(count) % 10)[torch.randperm(count, generator=generator)]
    images = 0.4 * patterns[labels] + torch.randn(count, 3, 32, 32, generator=generator)
    return list(zip(images.split(batch_size), labels.split(batch_size), strict=True))


class LeNet(nn.Module):
    """Two convolutions with poolings and three linear layers, 62,006 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 6, 5), nn.Conv2d(6, 16, 5)
        self.fc1, self.fc2, self.fc3 = nn.Linear(400, 120), nn.Linear(120, 84), nn.Linear(84, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2).flatten(1)
        return self.fc3(F.relu(self.fc2(F.relu(self.fc1(x)))))


class ResidualBlock(nn.Module):
    """Two convolutions beside the input, which a 1x1 convolution adapts where the shape changes."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.down = None
        if stride != 1 or before != after:
            self.down = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))

    def forward(self, x: Tensor) -> Tensor:
        beside = x if self.down is None else self.down(x)
        return F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))) + beside)


class ResNet20(nn.Module):
    """Three stages of three residual blocks with 16, 32 and 64 channels, 272,474 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        shapes = [(16, 16, 1), (16, 16, 1), (16, 16, 1), (16, 32, 2), (32, 32, 1), (32, 32, 1)]
        shapes += [(32, 64, 2), (64, 64, 1), (64, 64, 1)]
        self.layers = nn.Sequential(*(ResidualBlock(*shape) for shape in shapes))
        self.fc = nn.Linear(64, 10)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                fan = module.kernel_size[0] * module.kernel_size[1] * module.out_channels
                module.weight.data.normal_(0, math.sqrt(2.0 / fan))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.layers(F.relu(self.bn1(self.conv1(x)))).mean((2, 3)))


def cross_entropy(network: nn.Module):
    """Mean loss of a batch of :func:`synthetic_images`."""
    return lambda batch: F.cross_entropy(network(batch[0]), batch[1])


def train(network_class: type[nn.Module], epochs: int, batches) -> tuple[nn.Module, list[Tensor]]:
    """Network after some epochs of SGD from seed 0, in evaluation mode, and the flat parameters after each epoch."""
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        network = network_class()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
    path = [torch.nn.utils.parameters_to_vector(network.parameters()).detach().clone()]
    for _ in range(epochs):
        for images, labels in batches:
            optimizer.zero_grad()
            F.cross_entropy(network(images), labels).backward()
            optimizer.step()
        path.append(torch.nn.utils.parameters_to_vector(network.parameters()).detach().clone())
    return network.eval(), path
