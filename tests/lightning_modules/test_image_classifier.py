"""Classifier and detector: losses against references, metrics against scikit-learn, thresholds, checkpoints."""

from __future__ import annotations

import numpy as np
import pytest
import sklearn.metrics
import torch
import torch.nn.functional as F
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader

from lightning_modules import ImageClassifier, ImageDetector


def small(cls=ImageDetector, **kwargs):
    if cls is ImageClassifier:
        kwargs.setdefault("num_classes", 3)
    return cls(backbone="cifar_resnet8", backbone_kwargs={"width": 4}, **kwargs)


def loader(count=32, seed=0, separable=True):
    generator = torch.Generator().manual_seed(seed)
    samples = []
    for index in range(count):
        label = index % 2
        image = torch.rand(3, 16, 16, generator=generator)
        image = 0.5 + (image - 0.5) * (1.0 if not label or not separable else 0.2)
        samples.append({"image": image, "label": label, "path": f"{index}.png"})
    return DataLoader(dataset=samples, batch_size=8)


def trainer(tmp_path, **kwargs):
    quiet = {
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "logger": False,
        "enable_checkpointing": False,
    }
    return Trainer(accelerator="cpu", devices=1, default_root_dir=tmp_path, **{**quiet, "max_epochs": 1, **kwargs})


def test_normalisation_is_the_networks_first_layer():
    model = small(mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 0.125)).eval()
    x = torch.rand(2, 3, 16, 16)
    by_hand = (x - torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1)) / torch.tensor([0.5, 0.25, 0.125]).view(3, 1, 1)
    torch.testing.assert_close(model(x), model.backbone(by_hand))
    torch.testing.assert_close(model.backbone.linear(model.embed(x)), model(x))


def test_high_pass_removes_what_is_smooth_and_keeps_what_is_not():
    first = small(high_pass=True, mean=(0.5,) * 3, std=(1.0,) * 3).normalize
    ramp = torch.linspace(0, 1, 16).expand(1, 3, 16, 16)
    assert first(ramp)[..., 1:-1].abs().max() < 1e-6  # constants and slopes vanish
    checks = (torch.arange(16)[:, None] + torch.arange(16)) % 2 * 1.0
    residual = first(checks.expand(1, 3, 16, 16))[..., 1:-1, 1:-1]
    torch.testing.assert_close(residual.abs(), torch.full_like(residual, 4 / 9))  # 1 - 5/9 and 0 - 4/9


def test_overfits_a_handful_of_images(tmp_path):
    model = small(optimizer=lambda p: torch.optim.AdamW(p, lr=0.01))
    run = trainer(tmp_path, max_epochs=25)
    run.fit(model, loader(16), loader(16))
    assert run.callback_metrics["val/accuracy"] == 1.0
    assert run.callback_metrics["train/loss"] < 0.1


def test_weight_decay_spares_norms_and_biases():
    model = small(optimizer=lambda p: torch.optim.SGD(p, lr=0.1, weight_decay=0.5))
    optimizer = model.configure_optimizers()
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    named = dict(model.backbone.named_parameters())
    assert len(decay) == len(named)
    for name, parameter in named.items():
        assert decay[id(parameter)] == (0.0 if "bn" in name or name.endswith("bias") else 0.5), name


def test_consistency_loss_is_that_of_augmix():
    """CE on the clean images plus 12 times the mean KL of each view to the mixture (Hendrycks et al. 2020)."""
    model = small(jsd_weight=12.0, label_smoothing=0.1).eval()
    batch = {
        "image": torch.rand(4, 3, 16, 16),
        "views": torch.rand(4, 2, 3, 16, 16),
        "label": torch.tensor([0, 1, 1, 0]),
    }
    logits = [model(x) for x in (batch["image"], batch["views"][:, 0], batch["views"][:, 1])]
    views = [p.softmax(1) for p in logits]
    mixture = (sum(views) / 3).clamp(1e-7, 1).log()
    divergence = sum(F.kl_div(mixture, view, reduction="batchmean") for view in views) / 3
    expected = F.cross_entropy(logits[0], batch["label"], label_smoothing=0.1) + 12 * divergence
    model.log = lambda *args, **kwargs: None
    torch.testing.assert_close(model.training_step(batch, 0), expected)
    with pytest.raises(ValueError, match=r"data.augmented_views"):
        model.training_step({"image": batch["image"], "label": batch["label"]}, 0)


def test_mixup_mixes_images_and_labels_alike():
    model = small(ImageClassifier, mixup_alpha=0.8, cutmix_alpha=1.0)
    torch.manual_seed(0)
    images = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 3, 16, 16).contiguous()
    for _ in range(10):
        mixed, target = model.mixer(images, torch.tensor([0, 1, 2, 0]))
        assert target.shape == (4, 3)
        torch.testing.assert_close(target.sum(1), torch.ones(4))
        own = target[torch.arange(4), torch.tensor([0, 1, 2, 0])]
        # Neighbour i - 1 brings its own value in proportion to 1 - lambda, whether blended or pasted.
        means = own * images.mean((1, 2, 3)) + (1 - own) * images.roll(1, 0).mean((1, 2, 3))
        row = 1  # all labels around it differ, so its own share is lambda itself
        torch.testing.assert_close(mixed.mean((1, 2, 3))[row], means[row], atol=0.02, rtol=0)


def test_detector_metrics_agree_with_scikit_learn(tmp_path):
    model = small().eval()
    data = loader(200, separable=False)
    run = trainer(tmp_path)
    run.test(model, data, verbose=False)
    with torch.no_grad():
        batches = list(data)
        logits = torch.cat([model(batch["image"]) for batch in batches]).double()
    labels = torch.cat([batch["label"] for batch in batches]).numpy()
    score = (logits[:, 1] - logits[:, 0]).numpy()
    verdict = score > 0
    got = {key.removeprefix("test/"): float(value) for key, value in run.callback_metrics.items()}
    assert got["accuracy"] == pytest.approx(sklearn.metrics.accuracy_score(labels, verdict))
    assert got["balanced_accuracy"] == pytest.approx(sklearn.metrics.balanced_accuracy_score(labels, verdict))
    assert got["tpr"] == pytest.approx(sklearn.metrics.recall_score(labels, verdict))
    assert got["tnr"] == pytest.approx(sklearn.metrics.recall_score(labels, verdict, pos_label=0))
    assert got["auroc"] == pytest.approx(sklearn.metrics.roc_auc_score(labels, score), abs=1e-6)
    assert got["average_precision"] == pytest.approx(sklearn.metrics.average_precision_score(labels, score), abs=1e-6)
    fpr, tpr, _ = sklearn.metrics.roc_curve(labels, score, drop_intermediate=False)
    for percent in (1, 5):
        assert got[f"tpr_at_fpr_{percent}"] == pytest.approx(tpr[fpr <= percent / 100].max(), abs=1e-6)
    probability = 1 / (1 + np.exp(-score))
    bins = np.clip((probability * 15).astype(int), 0, 14)
    gaps = [abs(probability[bins == b].sum() - labels[bins == b].sum()) for b in np.unique(bins)]
    assert got["ece"] == pytest.approx(sum(gaps) / len(labels), abs=1e-5)


def test_auroc_ranks_confident_scores_without_ties():
    model = small()
    metric = model.build_metrics()["auroc"]
    logits = torch.tensor([[0.0, 30.0], [0.0, 31.0], [0.0, 32.0]])  # sigmoid in float32 is 1 for all three
    metric.update(model.scores(logits), torch.tensor([0, 1, 1]))
    assert metric.compute() == 1.0


def test_thresholds_are_chosen_on_validation_and_kept_in_the_checkpoint(tmp_path):
    model = small(optimizer=lambda p: torch.optim.SGD(p, lr=0.01), error_rate=0.1)
    run = trainer(tmp_path)
    data = loader(100, separable=False)
    run.fit(model, loader(16), data)
    run.save_checkpoint(tmp_path / "a.ckpt")
    again = ImageDetector.load_from_checkpoint(tmp_path / "a.ckpt", weights_only=True)
    assert again.calibration.unsure_below == model.calibration.unsure_below
    assert model.calibration.unsure_below < model.calibration.unsure_above
    outputs = run.predict(again, data)
    verdicts = torch.cat([output["verdict"] for output in outputs])
    labels = torch.cat([batch["label"] for batch in data])
    assert (verdicts[labels == 0] == 1).float().mean() <= 0.1
    assert (verdicts[labels == 1] == 0).float().mean() <= 0.1
    assert (verdicts == 2).any()


def test_named_test_loaders_are_logged_apart(tmp_path):
    run = trainer(tmp_path)
    run.test(small(), {"adm": loader(16), "sd": loader(16, seed=1)}, verbose=False)
    got = run.callback_metrics
    assert got["test/auroc"] == pytest.approx((got["test/adm/auroc"] + got["test/sd/auroc"]) / 2)


def test_means_are_kept_apart_by_condition_and_a_single_loader_is_plain(tmp_path):
    run = trainer(tmp_path)
    run.test(small(), {"a": loader(16), "b": loader(16, seed=1), "a@jpeg96": loader(16, seed=2)}, verbose=False)
    got = run.callback_metrics
    assert got["test/auroc"] == pytest.approx((got["test/a/auroc"] + got["test/b/auroc"]) / 2)
    assert got["test@jpeg96/auroc"] == pytest.approx(got["test/a@jpeg96/auroc"])
    alone = trainer(tmp_path)
    alone.test(small(), {"a@jpeg96": loader(16)}, verbose=False)
    assert "test/auroc" in alone.callback_metrics


def test_compiled_networks_keep_their_checkpoint_keys():
    assert list(small(compile=True).state_dict()) == list(small().state_dict())


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_reduced_precision_trains(tmp_path, precision):
    run = trainer(tmp_path, precision=precision)
    run.fit(small(), loader(16), loader(16))
    assert torch.isfinite(run.callback_metrics["train/loss"])


def test_mistakes_name_the_option():
    with pytest.raises(ValueError, match=r"model.backbone='resnet5O' is no timm model"):
        ImageDetector("resnet5O")
    with pytest.raises(ValueError, match="two classes"):
        ImageDetector("cifar_resnet8", num_classes=3)
    with pytest.raises(ValueError, match=r"model.num_classes=None"):
        ImageClassifier("cifar_resnet8")
    fixed = ImageDetector("test_vit", image_size=64)
    with pytest.raises(ValueError, match=r"built for 64 x 64, the batch has 32 x 32. Set data.image_size to 64"):
        fixed(torch.rand(1, 3, 32, 32))
