"""Weights from files."""

from __future__ import annotations

import pytest
import torch
from adversarial_data import write_weights

from lightning_modules import ImageClassifier
from lightning_modules.networks import CifarResNet, load_weights


@pytest.mark.parametrize(("backbone", "depth"), [("cifar_resnet20", 20), ("cifar_resnet56", 56)])
def test_loads_safetensors_of_the_public_form(tmp_path, backbone, depth):
    """97 and 277 entries, named conv1, layer1.0.conv1, ..., linear, without the counters of batch normalisation."""
    file = write_weights(tmp_path / "weights.safetensors", backbone)
    network = CifarResNet(depth)
    assert len([key for key in network.state_dict() if "num_batches" not in key]) == {20: 97, 56: 277}[depth]
    load_weights(network, file)
    classifier = ImageClassifier(backbone, num_classes=10, weights=str(file))
    x = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(classifier.eval()(x), network.eval()(classifier.normalize(x)))


def test_loads_our_own_checkpoints(tmp_path):
    source = ImageClassifier("cifar_resnet8", num_classes=4)
    torch.save({"state_dict": source.state_dict(), "epoch": 3}, tmp_path / "best.ckpt")
    target = ImageClassifier("cifar_resnet8", num_classes=4, weights=str(tmp_path / "best.ckpt"))
    for key, value in source.backbone.state_dict().items():
        assert torch.equal(target.backbone.state_dict()[key], value)


def test_refuses_other_networks_and_missing_files(tmp_path):
    file = write_weights(tmp_path / "weights.safetensors")
    with pytest.raises(ValueError, match=r"does not fit CifarResNet \(180 missing, e.g. layer1.3.conv1.weight\)"):
        load_weights(CifarResNet(56), file)
    with pytest.raises(ValueError, match=r"2 of another shape, e\.g\. linear\.bias"):
        load_weights(CifarResNet(20, num_classes=7), file)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_weights(CifarResNet(20), tmp_path / "nowhere.safetensors")


class Payload:
    def __reduce__(self):
        return (print, ("executed",))


def test_never_unpickles_code(tmp_path, capsys):
    torch.save({"state_dict": Payload()}, tmp_path / "evil.pth")
    with pytest.raises(ValueError, match="more than tensors"):
        load_weights(CifarResNet(20), tmp_path / "evil.pth")
    assert "executed" not in capsys.readouterr().out


def test_takes_the_encoder_of_a_gan(tmp_path):
    source = ImageClassifier("cifar_resnet8", num_classes=4)
    state = {f"encoder.backbone.{key}": value for key, value in source.backbone.state_dict().items()}
    torch.save({"state_dict": {**state, "generator.first.weight": torch.zeros(2)}}, tmp_path / "gan.ckpt")
    target = ImageClassifier("cifar_resnet8", num_classes=4, weights=str(tmp_path / "gan.ckpt"))
    for key, value in source.backbone.state_dict().items():
        assert torch.equal(target.backbone.state_dict()[key], value)
