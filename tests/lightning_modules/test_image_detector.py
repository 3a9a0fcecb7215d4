"""Verdicts over delivery paths, attribution against closed forms, calibration in a run, and `predict` end to end."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import noise, write_image
from lightning.pytorch import Trainer
from torch import nn
from torch.utils.data import DataLoader
from torchmetrics.functional.classification import binary_calibration_error

from functional.calibration import delivery_variants
from lightning_modules import ImageDetector

PLAIN = {"mean": (0.0,) * 3, "std": (1.0,) * 3}


def small(**kwargs):
    torch.manual_seed(0)
    return ImageDetector("cifar_resnet8", backbone_kwargs={"width": 4}, **{**PLAIN, **kwargs})


def loader(count=40, seed=0):
    """Noise images; four of five labels tell their strength."""
    generator = torch.Generator().manual_seed(seed)
    samples = []
    for index in range(count):
        strength = 1.0 if index % 2 else 0.5
        image = 0.5 + (torch.rand(3, 16, 16, generator=generator) - 0.5) * strength
        samples.append({"image": image, "label": (index + (index % 5 == 0)) % 2, "path": f"{index}.png"})
    return DataLoader(dataset=samples, batch_size=8)


def trainer(tmp_path, **kwargs):
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    quiet |= {"enable_checkpointing": False, "max_epochs": 1}
    return Trainer(accelerator="cpu", devices=1, default_root_dir=tmp_path, **{**quiet, **kwargs})


def scores_of(model, data):
    with torch.no_grad():
        return torch.cat([model.score(model(batch["image"])) for batch in data])


# Calibration in a run


def test_temperature_and_thresholds_come_from_validation_and_are_logged(tmp_path):
    model, data = small(optimizer=lambda p: torch.optim.AdamW(p, lr=0.01)), loader()
    run = trainer(tmp_path, max_epochs=5)
    run.fit(model, loader(seed=1), data)
    run.save_checkpoint(tmp_path / "a.ckpt")
    again = ImageDetector.load_from_checkpoint(tmp_path / "a.ckpt", weights_only=True)
    for name, buffer in model.calibration.named_buffers():
        assert torch.equal(getattr(again.calibration, name), buffer)
    assert 0.01 < model.calibration.temperature < 100
    assert model.calibration.temperature != 1
    assert run.callback_metrics["val/temperature"] == model.calibration.temperature
    expected = ImageDetector("cifar_resnet8", backbone_kwargs={"width": 4}).calibration.fit(
        scores_of(again.eval(), data), torch.cat([batch["label"] for batch in data])
    )
    for name in ("ece", "ece_calibrated"):
        torch.testing.assert_close(run.callback_metrics[f"val/{name}"].float(), expected[name])


def test_test_reports_the_error_before_and_after(tmp_path):
    model, data = small().eval(), loader()
    model.calibration.temperature.fill_(0.2)
    run = trainer(tmp_path)
    run.test(model, {"a": data, "b": loader(seed=1)}, verbose=False)
    scores, labels = scores_of(model, data), torch.cat([batch["label"] for batch in data])
    got = {name: value.item() for name, value in run.callback_metrics.items()}
    before = binary_calibration_error(torch.sigmoid(scores), labels, n_bins=15).item()
    after = binary_calibration_error(torch.sigmoid(scores / 0.2), labels, n_bins=15).item()
    assert got["test/a/ece"] == pytest.approx(before, abs=1e-5)
    assert got["test/a/ece_calibrated"] == pytest.approx(after, abs=1e-5)
    assert before != pytest.approx(after, abs=1e-3)
    assert got["test/ece_calibrated"] == pytest.approx((after + got["test/b/ece_calibrated"]) / 2, abs=1e-5)


def test_bounds_keep_their_digits_in_a_reduced_precision_run(tmp_path):
    model = small(optimizer=lambda p: torch.optim.AdamW(p, lr=0.01))
    trainer(tmp_path, precision="bf16-true", max_epochs=5).fit(model, loader(seed=1), loader())
    assert {buffer.dtype for buffer in model.calibration.buffers()} == {torch.float32}
    assert model.calibration.temperature.bfloat16() != model.calibration.temperature


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_a_validation_without_finite_scores_keeps_the_last_bounds(tmp_path, broken):
    model = small()
    model.calibration.unsure_above.fill_(3.0)
    with torch.no_grad():
        model.backbone.linear.bias[1] = broken
    run = trainer(tmp_path)
    with pytest.warns(UserWarning, match="temperature and thresholds keep their last values"):
        run.validate(model, loader(), verbose=False)
    assert model.calibration.unsure_above == 3
    assert "val/temperature" not in run.callback_metrics


# Delivery paths


class Sharpness(nn.Module):
    """Logits whose difference is ``0.02`` minus the mean squared difference of neighbouring pixels, times 100."""

    def forward(self, x):
        energy = (x[..., 1:] - x[..., :-1]).square().mean(dim=(1, 2, 3))
        return torch.stack([100 * energy, torch.full_like(energy, 2.0)], dim=1)


def test_a_verdict_that_flips_with_the_delivery_path_is_unsure():
    model = small(predict_variants=True).eval()
    model.backbone = Sharpness()
    model.calibration.temperature.fill_(2.0)
    noisy = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0))  # "real" until a codec smooths it
    flat = torch.full((3, 32, 32), 0.5)
    coarse = (torch.arange(32) // 4 % 2).float().expand(3, 32, 32)  # edges survive recompression and rescaling
    batch = {"image": torch.stack([0.5 + (noisy - 0.5) * 0.5, flat, coarse]), "path": ["noisy", "flat", "coarse"]}
    plain = small().eval()
    plain.backbone, plain.calibration = model.backbone, model.calibration
    before, after = plain.predict_step(batch, 0), model.predict_step(batch, 0)
    assert before["verdict"].tolist() == [0, 1, 0]
    assert after["verdict"].tolist() == [2, 1, 0]
    torch.testing.assert_close(before["score"], after["score"])
    assert "probability_min" not in before
    by_hand = [model.calibration.probability(model.score(model(v))) for v in delivery_variants(batch["image"])]
    by_hand = torch.stack([before["probability"], *by_hand])
    torch.testing.assert_close(after["probability_min"], by_hand.min(dim=0).values)
    torch.testing.assert_close(after["probability_max"], by_hand.max(dim=0).values)
    real = (by_hand[1:, 0] < 0.5).float().mean()
    assert 0 < real < 1
    torch.testing.assert_close(after["verdict_agreement"], torch.tensor([real, 1.0, 1.0]))


# Attribution


class LinearMaps(nn.Module):
    """Pixels as feature maps in the layout of a convolutional network, a Swin or a ViT, and a linear layer on means."""

    def __init__(self, layout, weight):
        super().__init__()
        self.layout, self.linear = layout, nn.Linear(3, 2)
        self.output_fmt = "NHWC" if layout == "NHWC" else "NCHW"
        self.num_prefix_tokens = 2 if layout == "tokens" else 0
        with torch.no_grad():
            self.linear.weight.copy_(torch.stack([torch.zeros(3), weight]))

    def forward_features(self, x):
        if self.layout == "NHWC":
            return x.permute(0, 2, 3, 1)
        if self.layout == "tokens":
            tokens = x.flatten(2).mT
            return torch.cat([torch.full_like(tokens[:, :2], 100.0), tokens], dim=1)
        return x

    def forward_head(self, x):
        if self.layout == "tokens":
            return self.linear(x[:, 2:].mean(dim=1))
        return self.linear(x.mean(dim=(1, 2) if self.layout == "NHWC" else (2, 3)))

    def forward(self, x):
        return self.forward_head(self.forward_features(x))


@pytest.mark.parametrize("layout", ["NCHW", "NHWC", "tokens"])
def test_attribution_of_a_linear_network_has_a_closed_form(layout):
    weight = torch.tensor([1.0, -2.0, 0.5])
    model = small().eval()
    model.backbone = LinearMaps(layout, weight)
    x = torch.rand(3, 3, 12, 20, generator=torch.Generator().manual_seed(0))
    x[2] = torch.tensor([0.0, 1.0, 0.0]).view(3, 1, 1)  # all of it speaks for "real"
    # The mean of map k has gradient weight_k / (H W) everywhere, so the map is relu(sum_k weight_k x_k) up to scale.
    expected = (weight.view(3, 1, 1) * x).sum(dim=1).relu()
    expected = expected / expected.amax(dim=(1, 2), keepdim=True).clamp_min(1e-30)
    got = model.attribution(x)
    torch.testing.assert_close(got, expected)
    assert got.amax(dim=(1, 2)).tolist() == [1, 1, 0]


def test_attribution_peaks_where_the_evidence_was_planted():
    """Fakes carry a checkerboard in one corner; a detector that has learnt it points to that corner."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(64, 3, 32, 32, generator=generator)
    labels = torch.arange(64) % 2
    board = (torch.arange(10)[:, None] + torch.arange(10)) % 2
    images[labels == 1, :, :10, -10:] = board.float()
    model = small()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for _ in range(40):
        optimizer.zero_grad()
        model.loss(model(images), labels).backward()
        optimizer.step()
    model.eval()
    maps = model.attribution(images[labels == 1])
    peaks = maps.flatten(1).argmax(dim=1)
    rows, columns = peaks // 32, peaks % 32
    assert ((rows < 14) & (columns >= 18)).double().mean() > 0.9
    corner, elsewhere = maps[:, :10, -10:].mean(), maps[:, 16:, :16].mean()
    assert corner > 4 * elsewhere


BACKBONES = {
    "cifar_resnet8": {"width": 4},
    "test_resnet": {},
    "test_vit": {},  # reads a class token
    "test_vit3": {},  # pools by attention
    "swin_tiny_patch4_window7_224": {"embed_dim": 24, "depths": (1, 1), "num_heads": (1, 2), "window_size": 4},
}


@pytest.mark.parametrize("backbone", BACKBONES)
def test_attribution_leaves_nothing_behind_also_in_inference_mode(backbone):
    torch.manual_seed(0)
    model = ImageDetector(backbone, image_size=64, backbone_kwargs=BACKBONES[backbone]).eval()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    x = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    model.score = lambda logits: logits[:, 0] - logits[:, 1]
    for_real = model.attribution(x)
    del model.score
    outside = model.attribution(x)
    with torch.inference_mode():
        inside = model.attribution(x * 1.0)
        assert not torch.is_grad_enabled()
    assert torch.is_grad_enabled()
    torch.testing.assert_close(inside, outside)
    assert outside.shape == (4, 64, 64)
    assert not outside.requires_grad
    assert outside.min() >= 0
    either = torch.maximum(outside, for_real)
    assert either.amax(dim=(1, 2)).tolist() == [1] * 4
    assert either.std(dim=(1, 2)).min() > 1e-3  # places differ
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(not module._forward_pre_hooks for module in model.modules())
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())


def test_attribution_of_a_class_token_looks_before_the_last_block():
    """Gradient through the last block by a Jacobian; after that block the patches have none at all."""
    torch.manual_seed(0)
    model = ImageDetector("test_vit", image_size=64).eval()
    x = torch.rand(2, 3, 64, 64)
    network = model.backbone
    kept = []
    handle = network.blocks[-1].register_forward_pre_hook(lambda module, arguments: kept.append(arguments[0].detach()))
    with torch.no_grad():
        network(model.normalize(x))
    handle.remove()
    tokens = kept[0]

    def score(tokens):
        return model.score(network.forward_head(network.norm(network.blocks[-1](tokens)))).sum()

    slopes = torch.autograd.functional.jacobian(score, tokens)[:, 1:]
    evidence = torch.einsum("bc,bnc->bn", slopes.mean(dim=1), tokens[:, 1:]).relu().view(2, 1, 4, 4)
    evidence = torch.nn.functional.interpolate(evidence, (64, 64), mode="bilinear")[:, 0]
    torch.testing.assert_close(model.attribution(x), evidence / evidence.amax(dim=(1, 2), keepdim=True))


def test_features_without_places_are_refused():
    class Vectors(LinearMaps):
        def forward_features(self, x):
            return x.mean(dim=(2, 3))

        def forward_head(self, x):
            return self.linear(x)

    model = small().eval()
    model.backbone = Vectors("NCHW", torch.ones(3))
    with pytest.raises(TypeError, match=r"model.predict_attribution: the features of Vectors \(\(2, 3\)\) are no map"):
        model.attribution(torch.rand(2, 3, 16, 16))


# End to end


def test_predict_with_variants_and_attributions(cli, detector_arguments, tmp_path):
    cli("fit", *detector_arguments, "--trainer.max_epochs=1", "--experiment=a")
    rng = np.random.default_rng(5)
    for index in range(9):
        write_image(tmp_path / "mine" / f"{index}.jpg", noise(rng, 50, 34))
    result = cli(
        "predict",
        *detector_arguments,
        "--experiment=a",
        f"--data.predict_root={tmp_path / 'mine'}",
        "--model.predict_variants=true",
        "--model.predict_attribution=true",
    )
    (run,) = Path("runs/a").glob("*-predict")
    table = pd.read_csv(run / "predictions.csv")
    assert len(table) == 9
    assert (table["probability_min"] <= table["probability"]).all()
    assert (table["probability"] <= table["probability_max"]).all()
    assert table["verdict_agreement"].mul(7).round(4).isin(range(8)).all()
    np.testing.assert_allclose(table["threshold"], result.model.calibration.threshold.item(), rtol=1e-5)
    temperature = result.model.calibration.temperature.item()
    assert temperature != 1
    np.testing.assert_allclose(table["probability"], 1 / (1 + np.exp(-table["score"] / temperature)), rtol=1e-4)
    assert (run / "predictions.png").stat().st_size > 5000
    assert (run / "attributions.png").stat().st_size > 5000
    assert all(parameter.grad is None for parameter in result.model.parameters())
