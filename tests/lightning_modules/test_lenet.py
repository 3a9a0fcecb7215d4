"""LeNet-5: layers, dropout, accessors."""

from __future__ import annotations

import pytest
import timm
import torch

from lightning_modules.networks import LeNet5


def test_parameters_are_those_of_the_original_with_full_connections():
    network = timm.create_model("lenet5", in_chans=1)
    assert sum(parameter.numel() for parameter in network.parameters()) == 61706
    assert network(torch.rand(3, 1, 28, 28)).shape == (3, 10)
    assert network.forward_head(network.forward_features(torch.rand(2, 1, 28, 28)), pre_logits=True).shape == (2, 84)


def test_keep_probabilities_are_those_of_the_units():
    network = LeNet5(keep_first=0.25, keep_second=1.0).train()
    first, second = (layer for layer in network.hidden if isinstance(layer, torch.nn.Dropout))
    kept = (first(torch.ones(100_000)) > 0).float().mean()
    assert kept == pytest.approx(0.25, abs=0.01)
    assert torch.equal(second(torch.ones(100)), torch.ones(100))
    x = torch.rand(4, 3, 28, 28)
    assert not torch.equal(network(x), network(x))
    network.eval()
    assert torch.equal(network(x), network(x))
    with pytest.raises(ValueError, match="keep_first=0"):
        LeNet5(keep_first=0.0)
    with pytest.raises(ValueError, match="no weights to download"):
        timm.create_model("lenet5", pretrained=True)
