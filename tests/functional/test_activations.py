"""Outputs of layers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from functional.activations import layer_activations


def test_gives_outputs_in_the_order_of_the_names_and_leaves_no_hook():
    network = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    x = torch.randn(5, 3)
    output, (last, middle) = layer_activations(network, x, ["2", "1"])
    torch.testing.assert_close(middle, network[1](network[0](x)))
    assert output is last
    assert not any(module._forward_hooks for module in network.modules())


def test_sees_layers_of_a_network_compiled_in_place():
    network = nn.Sequential(nn.Linear(3, 4), nn.ReLU())
    network.compile(backend="eager")
    network(torch.randn(2, 3))
    _, (first,) = layer_activations(network, torch.ones(2, 3), ["0"])
    torch.testing.assert_close(first, network[0](torch.ones(2, 3)))


class Odd(nn.Module):
    def __init__(self):
        super().__init__()
        self.used, self.unused, self.pair = nn.Identity(), nn.Identity(), Pair()

    def forward(self, x):
        return self.used(self.pair(x)[0])


class Pair(nn.Module):
    def forward(self, x):
        return x, x


@pytest.mark.parametrize(
    ("layer", "message"),
    [("nowhere", "has no layer 'nowhere'. It has used, unused"), ("unused", "not called"), ("pair", "gives tuple")],
)
def test_refuses_layers_without_a_tensor(layer, message):
    network = Odd()
    with pytest.raises(ValueError, match=message):
        layer_activations(network, torch.ones(1), [layer])
    assert not network.pair._forward_hooks
