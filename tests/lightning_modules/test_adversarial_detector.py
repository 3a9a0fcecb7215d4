"""The guard: fitted through the trainer, kept in a checkpoint, in front of any classifier of ours."""

from __future__ import annotations

import pytest
import torch
from adversarial_data import striped_images, trained_victim, write_pairs
from lightning.pytorch import Trainer, seed_everything

from datamodules import AdversarialDataModule
from lightning_modules import AdversarialDetector, ImageClassifier, ImageDetector
from lightning_modules.victim_features import FEATURES


def trainer(tmp_path, **options):
    return Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
        **options,
    )


@pytest.fixture(scope="module")
def victim():
    return trained_victim()


@pytest.fixture(scope="module")
def pairs(tmp_path_factory, victim):
    return write_pairs(tmp_path_factory.mktemp("pairs"), victim=victim)


@pytest.fixture
def data(pairs):
    return AdversarialDataModule(str(pairs), test_attacks=["fgsm", "bim"], batch_size=20, num_workers=0)


def small(name):
    return {"features": name, "neighbours": 5} if name == "lid" else {"features": name}


@pytest.mark.filterwarnings("ignore:Found .* in eval mode", "ignore:The '.*_dataloader' does not have many workers")
@pytest.mark.parametrize("name", FEATURES)
def test_learns_in_one_epoch_and_a_checkpoint_brings_it_back(victim, data, tmp_path, name):
    before = {key: value.clone() for key, value in victim.state_dict().items()}
    detector = AdversarialDetector(victim, **small(name))
    run = trainer(tmp_path)
    run.fit(detector, datamodule=data)
    assert all(torch.equal(before[key], value) for key, value in victim.state_dict().items()), "the victim is frozen"
    (results,) = run.test(detector, datamodule=data, verbose=False)[:1]
    if name.endswith("mfs"):
        assert results["test/fgsm/auroc"] > 0.99
    run.save_checkpoint(tmp_path / "detector.ckpt")
    content = torch.load(tmp_path / "detector.ckpt", weights_only=True)
    assert "victim" not in content["hyper_parameters"]
    again = AdversarialDetector.load_from_checkpoint(
        tmp_path / "detector.ckpt", victim=trained_victim(0), weights_only=True
    ).eval()
    x = torch.from_numpy(striped_images(6)[0]).permute(0, 3, 1, 2) / 255
    with torch.no_grad():
        kept, loaded = detector.eval().guarded(x), again.guarded(x)
        torch.testing.assert_close(kept.logits, victim(x))
        torch.testing.assert_close(detector.score(detector(x)), kept.score)
    for a, b in zip(kept, loaded, strict=True):
        assert torch.equal(a, b)
    assert set(kept.verdict.tolist()) <= {0, 1, 2}


@pytest.mark.filterwarnings("ignore:Found .* in eval mode", "ignore:The '.*_dataloader' does not have many workers")
def test_flags_attacked_images(victim, data, tmp_path):
    detector = AdversarialDetector(victim, "input_mfs")
    run = trainer(tmp_path)
    run.fit(detector, datamodule=data)
    batches = run.predict(detector, datamodule=data)
    verdicts = torch.cat([batch["verdict"] for batch in batches])
    attacked = torch.tensor([not path.startswith("clean") for batch in batches for path in batch["path"]])
    assert batches[0]["verdict_names"] == ("clean", "attacked", "unsure")
    assert (verdicts[attacked] == 1).float().mean() > 0.8
    assert (verdicts[~attacked] == 1).float().mean() < 0.2
    assert (batches[0]["prediction"] == victim(data.predict_set[0]["image"].view(torch.float32)[None]).argmax()).any()


@pytest.mark.filterwarnings("ignore:Found .* in eval mode", "ignore:The '.*_dataloader' does not have many workers")
@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_half_precision_leaves_the_pixels_alone(victim, data, tmp_path, precision):
    """Rounded to bfloat16 a change of 0.02 would survive, one of DeepFool's would not: what arrives is exact."""
    detector = AdversarialDetector(trained_victim(), "input_mfs")
    run = trainer(tmp_path, precision=precision)
    run.fit(detector, datamodule=data)
    exact = AdversarialDetector(victim, "input_mfs")
    trainer(tmp_path).fit(exact, datamodule=data)
    torch.testing.assert_close(detector.backbone.rows, exact.backbone.rows)


def test_guards_detectors_too():
    with torch.random.fork_rng():
        seed_everything(0, verbose=False)
        victim = ImageDetector("cifar_resnet8")
    guard = AdversarialDetector(victim, "layer_mfs")
    x = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        features = guard.embed(torch.cat([x, x.flip(-1).roll(1, 2) * 0.9]))
    guard.backbone.fit(features, torch.arange(16) // 8)
    guarded = guard.guarded(x)
    assert guarded.logits.shape == (8, 2)
    torch.testing.assert_close(guarded.logits, victim(x))


def test_victim_stays_in_eval_mode(victim):
    detector = AdversarialDetector(victim).train()
    assert detector.training
    assert not any(module.training for module in victim.modules())
    assert [name for name, p in detector.named_parameters() if p.requires_grad] == ["counter"]


def test_score_is_differentiable_down_to_the_pixels(victim):
    detector = AdversarialDetector(victim, "layer_pfs")
    images, _ = striped_images(20)
    x = torch.from_numpy(images).permute(0, 3, 1, 2) / 255
    with torch.no_grad():
        features = torch.cat([detector.embed(x), detector.embed((x + 0.05 * torch.randn_like(x)).clamp(0, 1))])
    detector.backbone.fit(features, torch.arange(40) // 20)
    x = x[:2].clone().requires_grad_()
    detector.guarded(x).score.sum().backward()
    assert x.grad.isfinite().all()
    assert x.grad.abs().sum() > 0


@pytest.mark.filterwarnings("ignore:Found .* in eval mode", "ignore:The '.*_dataloader' does not have many workers")
def test_refusals(victim, data, tmp_path):
    with pytest.raises(RuntimeError, match="not fitted yet"):
        AdversarialDetector(victim, "input_mfs").guarded(torch.rand(1, 3, 32, 32))
    with pytest.raises(ValueError, match=r"model.features='mfs'"):
        AdversarialDetector(victim, "mfs")
    data.setup("fit")
    with pytest.raises(TypeError, match="has no reference_dataloader"):
        trainer(tmp_path).fit(AdversarialDetector(victim, "lid"), data.train_dataloader(), data.val_dataloader())
    assert isinstance(victim, ImageClassifier)


@pytest.mark.filterwarnings("ignore:Found .* in eval mode", "ignore:The '.*_dataloader' does not have many workers")
def test_pairs_of_another_victim_are_refused(data, tmp_path):
    seed_everything(1, verbose=False)
    other = ImageClassifier("cifar_resnet8", num_classes=10, backbone_kwargs={"width": 8})
    with pytest.raises(ValueError, match="these pairs were made with another victim"):
        trainer(tmp_path).fit(AdversarialDetector(other, "input_mfs"), datamodule=data)


@pytest.mark.filterwarnings("ignore:Found .* in eval mode", "ignore:The '.*_dataloader' does not have many workers")
def test_guard_is_unsure_of_images_outside_the_unit_interval(victim, data, tmp_path):
    detector = AdversarialDetector(victim, "input_mfs")
    trainer(tmp_path).fit(detector, datamodule=data)
    detector.eval()
    images = torch.from_numpy(striped_images(3)[0]).permute(0, 3, 1, 2)
    with torch.no_grad():
        inside = detector.guarded(images / 255)
        images = images / 255
        images[1] *= 255
        mixed = detector.guarded(images)
        assert detector.guarded(images[:0]).verdict.shape == (0,)
    assert mixed.verdict[1] == 2
    assert torch.equal(mixed.verdict[[0, 2]], inside.verdict[[0, 2]])
    for wrong in ((images * 255).byte(), images[:, :1], images[0]):
        with pytest.raises(ValueError, match=r"Images must be floats in \[0, 1\]"):
            detector.guarded(wrong)
