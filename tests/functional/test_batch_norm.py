"""Modes of batch normalisation: what each computes, and that nothing is left changed."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from functional.batch_norm import batch_norm_layers, batch_norm_mode


def network_and_batches():
    generator = torch.Generator().manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.Conv2d(4, 2, 1))
    network.train()
    network[4].eval()
    batches = [3 + 2 * torch.randn(8, 3, 5, 5, generator=generator) for _ in range(3)]
    network(batches[0])
    return network, batches


@pytest.mark.parametrize("mode", ["eval", "train", "recompute"])
def test_everything_is_as_before(mode):
    network, batches = network_and_batches()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    modes = [module.training for module in network.modules()]
    with torch.inference_mode(), batch_norm_mode(network, mode) as prepare:
        prepare(lambda: [network(batch) for batch in batches])
        network(batches[1])
        assert not network[3].training
    assert modes == [module.training for module in network.modules()]
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert [layer.momentum for layer in batch_norm_layers(network)] == [0.1]


def test_recomputed_statistics_are_those_of_all_batches():
    network, batches = network_and_batches()
    with torch.no_grad(), batch_norm_mode(network, "recompute") as prepare:
        prepare(lambda: [network(batch) for batch in batches])
        inputs = network[0](torch.cat(batches))
        torch.testing.assert_close(network[1].running_mean, inputs.mean(dim=(0, 2, 3)))
        torch.testing.assert_close(
            network[1].running_var,
            torch.stack([network[0](batch).var(dim=(0, 2, 3)) for batch in batches]).mean(dim=0),
        )
        assert not network[1].training


def test_statistics_of_the_batch_in_train_mode():
    network, batches = network_and_batches()
    with torch.no_grad():
        with batch_norm_mode(network, "train"):
            seen = network[1](network[0](batches[0]))
        torch.testing.assert_close(seen.mean(dim=(0, 2, 3)), torch.zeros(4), atol=1e-5, rtol=0)
        with batch_norm_mode(network, "eval"):
            assert network[1](network[0](batches[0])).mean(dim=(0, 2, 3)).abs().max() > 0.1


def test_other_modes_are_refused():
    with pytest.raises(ValueError, match="bn_mode='frozen'"), batch_norm_mode(nn.Linear(1, 1), "frozen"):
        pass
