"""VGG-16 for small images: shapes, sizes, layer numbers."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from lightning_modules import ImageClassifier
from lightning_modules.networks import CifarVGG
from lightning_modules.victim_layers import observed_layers


def test_layers_are_numbered_as_in_the_paper():
    network = CifarVGG()
    published = [2, 5, 9, 12, 16, 19, 22, 26, 29, 32, 36, 39, 42]
    assert [i for i, layer in enumerate(network.features) if isinstance(layer, nn.ReLU)] == published
    assert observed_layers(network, spectral=True) == [f"features.{i}" for i in (9, 16, 22, 29, 36, 42)]
    assert observed_layers(network, spectral=False) == [f"features.{i}" for i in published]


def test_parameters_are_those_of_the_architecture():
    """14.7 M in the convolutions; the hidden layers of the original add 19 M at 512 inputs."""

    def millions(**options):
        return sum(p.numel() for p in CifarVGG(**options).parameters()) / 1e6

    assert millions() == pytest.approx(14.73, abs=0.01)
    assert millions(num_classes=100, hidden=4096) == pytest.approx(34.0, abs=0.1)


@pytest.mark.parametrize("name", ["cifar_vgg16", "cifar_vgg16_bn"])
def test_timm_builds_it_and_gradients_reach_the_first_layer(name):
    torch.manual_seed(0)
    network = timm.create_model(name, num_classes=5, width=16, hidden=8)
    logits = network(torch.rand(8, 3, 32, 32))  # with two images batch normalisation leaves no gradient at 1 x 1
    assert logits.shape == (8, 5)
    logits.square().sum().backward()
    assert network.features[0].weight.grad.abs().sum() > 0
    assert network.forward_head(network.forward_features(torch.rand(2, 3, 64, 64)), pre_logits=True).shape == (2, 8)
    network.reset_classifier(0)
    assert network(torch.rand(2, 3, 32, 32)).shape == (2, 8)


def test_classifier_takes_it():
    classifier = ImageClassifier("cifar_vgg16_bn", num_classes=10, backbone_kwargs={"width": 4})
    assert classifier.embed(torch.rand(2, 3, 32, 32)).shape == (2, classifier.backbone.num_features)


def test_refuses_what_it_has_not():
    with pytest.raises(ValueError, match="no weights to download"):
        timm.create_model("cifar_vgg16_bn", pretrained=True)
    with pytest.raises(ValueError, match="width=0"):
        CifarVGG(width=0)
