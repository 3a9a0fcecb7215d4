"""Features of a victim against direct implementations."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
from adversarial_data import striped_images, trained_victim

from functional.activations import layer_activations
from functional.adversarial_features import class_gaussians, class_moments
from lightning_modules import ImageClassifier
from lightning_modules.networks import CifarResNet, CifarVGG
from lightning_modules.victim_features import FEATURES, VictimFeatures
from lightning_modules.victim_layers import observed_layers


@pytest.fixture(scope="module")
def victim():
    return trained_victim()


@pytest.fixture(scope="module")
def images():
    return torch.from_numpy(striped_images(12, 4)[0]).permute(0, 3, 1, 2) / 255


def reference_batches(count=120):
    images, labels = striped_images(count, 3)
    x, y = torch.from_numpy(images).permute(0, 3, 1, 2) / 255, torch.from_numpy(labels)
    return list(zip(x.split(50), y.split(50), strict=True))


@torch.no_grad()
def test_spectra_are_those_of_image_and_rectified_maps(victim, images):
    layers = ["layer2.0", "layer3.0"]
    logits, maps = layer_activations(victim.backbone, victim.normalize(images), layers)
    assert all((part >= 0).all() for part in maps), "after the ReLU"
    for kind, of in (("mfs", np.abs), ("pfs", lambda f: np.abs(np.angle(f)))):
        expected = of(np.fft.fft2(images.numpy())).reshape(12, -1)
        _, features = VictimFeatures(f"input_{kind}")(victim, images)
        np.testing.assert_allclose(features, expected, rtol=1e-3, atol=1e-2 if kind == "pfs" else 1e-3)
    ours_logits, features = VictimFeatures("layer_mfs")(victim, images)
    expected = np.concatenate([np.abs(np.fft.fft2(part.numpy())).reshape(12, -1) for part in maps], axis=1)
    np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ours_logits, logits)
    torch.testing.assert_close(victim(images), logits)
    _, scaled = VictimFeatures("layer_mfs", own_maximum=True)(victim, images)
    assert scaled.shape == features.shape
    width = maps[0][0].numel()
    torch.testing.assert_close(scaled[:, :width].amax(dim=1), torch.ones(12))
    torch.testing.assert_close(VictimFeatures("layer_mfs", log1p=True)(victim, images)[1], features.log1p())


def test_number_of_features_of_the_paper():
    """77,824 values of LayerMFS for VGG-16 with batch normalisation, 2,048 with its last layer alone, 13 layers."""
    victim = ImageClassifier("cifar_vgg16_bn", num_classes=10).eval()
    x = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        assert VictimFeatures("input_mfs")(victim, x)[1].shape == (1, 3072)
        assert VictimFeatures("layer_mfs")(victim, x)[1].shape == (1, 77824)
        assert VictimFeatures("layer_pfs", ["features.42"])(victim, x)[1].shape == (1, 2048)
        lid = VictimFeatures("lid", neighbours=2, references=4)
        lid.fit(victim, [(torch.rand(4, 3, 32, 32), torch.zeros(4, dtype=torch.long))])
        assert lid(victim, x)[1].shape == (1, 13)


@torch.no_grad()
def test_dimension_of_each_layer_among_reference_images(victim, images):
    features = VictimFeatures("lid", neighbours=5, references=70)
    features.fit(victim, reference_batches())
    _, values = features(victim, images)
    clean = torch.cat([x for x, _ in reference_batches()])[:70]
    for layer, column in zip(observed_layers(victim.backbone, spectral=False), values.T, strict=True):
        own, others = (
            layer_activations(victim.backbone, victim.normalize(x), [layer])[1][0].flatten(1).double().numpy()
            for x in (images, clean)
        )
        for row, value in zip(own, column.tolist(), strict=True):
            nearest = np.sort(np.linalg.norm(others - row, axis=1))[:5]
            assert value == pytest.approx(-1 / np.log(nearest / nearest[-1]).mean(), rel=1e-3)
    # The published minibatch holds the images themselves, which do not count as their own neighbours.
    _, minibatch = features(victim, images, reference=images, skip=1)
    assert minibatch.isfinite().all()
    assert (minibatch < 1e3).all()


def test_mahalanobis_steps_towards_the_likeliest_class(victim, images):
    plain, stepped = (VictimFeatures("mahalanobis", step=step) for step in (0.0, 1e-3))
    for features in (plain, stepped):
        features.fit(victim, reference_batches())
    x, y = (torch.cat(parts) for parts in zip(*reference_batches(), strict=True))
    (layer, *_) = observed_layers(victim.backbone, spectral=False)
    with torch.no_grad():
        maps = layer_activations(victim.backbone, victim.normalize(x), [layer])[1][0]
    gaussians = class_gaussians(class_moments(maps.mean(dim=(2, 3)), y, 10))
    start = victim.normalize(images).requires_grad_()
    pooled = layer_activations(victim.backbone, start, [layer])[1][0].mean(dim=(2, 3)).double()
    apart = pooled[:, None] - gaussians.means
    scores = (-0.5 * torch.einsum("bcd,de,bce->bc", apart, gaussians.precision, apart)).amax(dim=1)
    torch.testing.assert_close(plain(victim, images)[1][:, 0], scores, rtol=1e-5, atol=1e-6)
    (slope,) = torch.autograd.grad(scores.sum(), start)
    with torch.no_grad():
        moved = layer_activations(victim.backbone, start + 1e-3 * slope.sign(), [layer])[1][0].mean(dim=(2, 3))
        apart = moved.double()[:, None] - gaussians.means
        expected = (-0.5 * torch.einsum("bcd,de,bce->bc", apart, gaussians.precision, apart)).amax(dim=1)
        torch.testing.assert_close(stepped(victim, images)[1][:, 0], expected, rtol=1e-4, atol=1e-4)
    assert (stepped(victim, images)[1] > plain(victim, images)[1]).float().mean() > 0.95


@pytest.mark.parametrize("name", FEATURES)
def test_features_survive_a_checkpoint_and_half_precision(victim, images, name):
    source, target = (VictimFeatures(name, neighbours=5) for _ in range(2))
    source.fit(victim, reference_batches())
    target.load_state_dict(source.bfloat16().state_dict())
    assert target.ready
    with torch.no_grad():
        expected = source(victim, images)[1]
        assert torch.equal(target(victim, images)[1], expected)
        one = torch.cat([source(victim, image[None])[1] for image in images])
    apart = ((one - expected).abs() / (1 + expected.abs())).flatten()
    # A phase at a vanishing amplitude, and a sign of a vanishing gradient, may flip with the size of the batch.
    assert apart.quantile(0.99) < 1e-2, "the batch must not matter"


def test_layers_of_other_networks():
    assert observed_layers(CifarResNet(20), spectral=True) == [f"layer{s}.{b}" for s in (2, 3) for b in range(3)]
    resnet = timm.create_model("resnet18")
    assert observed_layers(resnet, spectral=True) == ["act1", "layer1", "layer2", "layer3", "layer4"]
    assert len(observed_layers(CifarVGG(batch_norm=False), spectral=True)) == 6
    with pytest.raises(ValueError, match="name the layers of Linear"):
        observed_layers(torch.nn.Linear(2, 2), spectral=True)
    victim = ImageClassifier("resnet18", num_classes=3).eval()
    with torch.no_grad():
        assert VictimFeatures("layer_mfs")(victim, torch.rand(1, 3, 64, 64))[1].ndim == 2


def test_refusals(victim, images):
    with pytest.raises(ValueError, match="'mfs' is not one of"):
        VictimFeatures("mfs")
    with pytest.raises(ValueError, match="log1p is for magnitudes"):
        VictimFeatures("lid", log1p=True)
    with pytest.raises(RuntimeError, match="lid features are not fitted"):
        VictimFeatures("lid")(victim, images)
    with pytest.raises(ValueError, match="references=500: there are only 120"):
        VictimFeatures("lid", references=500).fit(victim, reference_batches())
    features = VictimFeatures("mahalanobis", ["layer1.0"])
    features.fit(victim, reference_batches())
    features.layers = ["layer3.0"]
    with pytest.raises(ValueError, match="fitted on other layers"):
        features(victim, images)
