"""CIFAR ResNets: parameter counts of the paper, timm's interface."""

from __future__ import annotations

import pytest
import timm
import torch

from lightning_modules.networks import CifarResNet


@pytest.mark.parametrize(("depth", "millions"), [(20, 0.27), (56, 0.85)])
def test_parameter_counts_are_those_of_he_et_al(depth, millions):
    count = sum(parameter.numel() for parameter in CifarResNet(depth).parameters())
    assert count / 1e6 == pytest.approx(millions, abs=0.006)


def test_timm_creates_it_with_the_keys_of_the_shared_weights():
    net = timm.create_model("cifar_resnet20", num_classes=10)
    keys = set(net.state_dict())
    assert {"conv1.weight", "bn1.running_var", "layer1.0.conv1.weight", "layer3.2.bn2.bias", "linear.bias"} <= keys
    assert len([key for key in keys if "num_batches" not in key]) == 97
    assert not any("shortcut" in key or "downsample" in key for key in keys)  # option A has no parameters
    with pytest.raises(TypeError, match="widht"):
        timm.create_model("cifar_resnet20", widht=3)
    with pytest.raises(ValueError, match="no weights to download"):
        timm.create_model("cifar_resnet20", pretrained=True)


def test_features_and_head_compose_to_the_forward_pass():
    net = timm.create_model("cifar_resnet8", num_classes=3).eval()
    x = torch.rand(2, 3, 40, 32)
    features = net.forward_features(x)
    assert features.shape == (2, 64, 10, 8)
    torch.testing.assert_close(net.forward_head(features), net(x))
    assert net.forward_head(features, pre_logits=True).shape == (2, net.num_features)
    net.reset_classifier(0)
    assert net(x).shape == (2, 64)


def test_shortcut_pads_and_subsamples():
    net = CifarResNet(8, width=4)
    block = net.layer2[0].eval()
    for parameter in block.parameters():
        torch.nn.init.zeros_(parameter)
    x = torch.rand(1, 4, 8, 8)
    out = block(x)  # the residual branch is silent
    torch.testing.assert_close(out[:, 2:6], x[:, :, ::2, ::2])
    assert out[:, :2].abs().max() == 0
    with pytest.raises(ValueError, match="6n"):
        CifarResNet(18)
