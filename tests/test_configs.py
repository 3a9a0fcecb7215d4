"""Every config in configs/ parses, builds and steps; full-size ones on small files of the right shape."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from adversarial_data import save_victim, write_spectral_defense
from conftest import ROOT, noise, write_image, write_stl10
from torchvision.datasets import STL10

from lightning_modules import AttributeClassifier, ImageClassifier
from train import main

HAIR = ["Black_Hair", "Blond_Hair", "Brown_Hair", "Gray_Hair"]
FRAGMENTS = {"trainer", "logger", "callbacks", "tuner"}
EXPERIMENTS = sorted(
    path for path in (ROOT / "configs").rglob("*.yaml") if path.relative_to(ROOT / "configs").parts[0] not in FRAGMENTS
)
CPU = ["--trainer.accelerator=cpu", "--trainer.devices=1", "--trainer.strategy=auto", "--trainer.precision=32-true"]


def write_genimage(root: Path) -> Path:
    """The layout of GenImage for two generators: 500-pixel JPEG-96 reals, 512-pixel PNG fakes, with metadata."""
    rng = np.random.default_rng(0)
    rows = []
    for generator in ("stable_diffusion_v_1_5", "BigGAN"):
        for mode, count in (("train", 12), ("val", 3)):
            for index in range(count):
                for label in ("nature", "ai"):
                    name = f"{label}_{index}." + ("JPEG" if label == "nature" else "png")
                    path = Path(generator, "imagenet_x", mode, label, name)
                    side = 512 if label == "ai" else 480 + index
                    quality = {"quality": 96} if label == "nature" else {}
                    write_image(root / path, noise(rng, side, side), **quality)
                    source = "nature" if label == "nature" else generator
                    rows.append((path.as_posix(), source, index % 2, mode, side, side, 96 if quality else ""))
    columns = ["path", "generator", "class", "mode", "width", "height", "compression_rate"]
    pd.DataFrame(rows, columns=columns).to_csv(root / "metadata.csv", index=False)
    return root


def write_celeba(root: Path) -> None:
    """A few aligned images with attributes in CelebA's CSV layout, each of them in every second to fourth image."""
    rng = np.random.default_rng(2)
    names = [f"{index:06d}.jpg" for index in range(1, 41)]
    for name in names:
        write_image(root / "img_align_celeba" / name, noise(rng, 218, 178))
    columns = ["Smiling", "Mustache", "Eyeglasses", "Mouth_Slightly_Open", "No_Beard", "Narrow_Eyes"]
    values = {name: 2 * (np.arange(40) % (2 + index % 3) == 0) - 1 for index, name in enumerate(columns)}
    values |= {name: 2 * (np.arange(40) % 4 == index) - 1 for index, name in enumerate(HAIR)}  # one colour each
    pd.DataFrame(values, index=pd.Index(names, name="image_id")).to_csv(root / "list_attr_celeba.csv")


@pytest.fixture(scope="session")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that has what each experiment config looks for."""
    root = tmp_path_factory.mktemp("data")
    write_genimage(root / "genimage")
    rng = np.random.default_rng(1)
    for folder in ("cifake/REAL/cat", "cifake/FAKE/cat"):
        for index in range(40):
            write_image(root / folder / f"{index}.jpg", noise(rng, 32, 32))
    for folder in ("faces_ffhq_real", "faces_gan_512"):
        for index in range(10):
            write_image(root / folder / f"{index}.jpg", noise(rng, 300, 300))
    for folder in ("CelebA-HQ", "Flickr-Faces-HQ", "100KFaces", "thispersondoesnotexist"):
        for index in range(10):
            write_image(root / "Faces-HQ" / folder / f"{index}.jpg", noise(rng, 128, 128))
    sequences = root / "FaceForensics++"
    for actor in range(10):
        for place, video in (
            ("original_sequences/actors", f"{actor:02d}__walking"),
            ("manipulated_sequences/DeepFakeDetection", f"{actor:02d}_{(actor + 1) % 10:02d}__walking__ABCDEFGH"),
        ):
            for frame in range(2):
                write_image(sequences / place / "c23/images" / video / f"{frame:04d}.png", noise(rng, 150, 150))
    write_spectral_defense(root)
    for part, count in (("train", 40), ("t10k", 10)):
        for name, array in (
            (f"{part}-images-idx3-ubyte", rng.integers(0, 256, (count, 28, 28), np.uint8)),
            (f"{part}-labels-idx1-ubyte", rng.integers(0, 10, count).astype(np.uint8)),
        ):
            (root / "mnist").mkdir(exist_ok=True)
            header = bytes((0, 0, 8, array.ndim)) + np.array(array.shape, ">u4").tobytes()
            (root / "mnist" / name).write_bytes(header + array.tobytes())
    write_stl10(root / "stl10_binary")
    save_victim(
        ImageClassifier("small_cnn", num_classes=10, backbone_kwargs={"width": 16}), root / "judges" / "digits.ckpt"
    )
    write_celeba(root / "celeba")
    for name, judged, backbone in (
        ("faces", ["smile", "moustache"], {"backbone_kwargs": {"width": 16}}),
        ("celeba", ["Smiling", "Mustache", "Eyeglasses"], {"backbone": "cifar_resnet20"}),
        ("hair", HAIR, {"backbone_kwargs": {"width": 16}}),
    ):
        save_victim(AttributeClassifier(judged, **backbone), root / "judges" / f"{name}.ckpt")
    (root / "unmasking").mkdir()
    for name, features in (("celeba_low_features", 80), ("dfd_test_features", 300)):
        is_fake = np.arange(40) % 2 == 1
        np.savez(root / "unmasking" / f"{name}.npz", features=rng.random((40, features)), is_fake=is_fake)
    return root


@pytest.mark.parametrize("config", EXPERIMENTS, ids=lambda path: "/".join(path.relative_to(ROOT / "configs").parts))
def test_experiment_config_steps(config, data_root, monkeypatch):
    monkeypatch.setenv("DATA_ROOT", str(data_root))
    text = config.read_text()
    small = ["--data.batch_size=2", "--data.num_workers=0", "--data.cache_images=false", "--data.val_fraction=0.3"]
    if "SpectrumDetector" in text or "AdversarialDetector" in text:  # fitted on both classes, which two may not show
        small = ["--data.batch_size=16", "--data.num_workers=0"]
    if "Cifar10" in text:  # torchvision's own files have checksums
        small = ["--data.batch_size=20", "--data.num_workers=0", f"--data.file={data_root}/cifar10/cifar10_jpegq75.npz"]
    if "FeatureTable" in text:
        small = ["--data.batch_size=16"]
    if "MnistDataModule" in text:
        small = ["--data.batch_size=8", "--data.num_workers=0"]
    if "DigitsDataModule" in text:
        small = ["--data.num_workers=0"]
    if "Cifar100DataModule" in text:
        small = ["--data.batch_size=20", "--data.num_workers=0", f"--data.file={data_root}/cifar10/cifar10_jpegq75.npz"]
    if "Stl10" in text:
        monkeypatch.setattr(STL10, "_check_integrity", lambda self: True)
        small = ["--data.batch_size=4", "--data.num_workers=0"]
    if "ConditionedGAN" in text:
        check_gan_config(config, small)
        return
    if "FewShotTranslationGAN" in text:
        small = ["--data.shots=1", "--data.sources=4", "--data.queries=4", "--data.test_draws=1", "--data.batch_size=1"]
        small += ["--data.num_workers=0", "--model.inner_steps=1", "--model.inner_batch=2", "--model.width=8"]
        small += ["--model.adaptation_steps=[0, 1]", "--model.critic_width=8"]
        cli = main(["fit", "-c", str(config), *CPU, *small, "--trainer.fast_dev_run=1"])
        assert cli.model.outer_steps == 1
        assert np.isfinite(float(cli.trainer.callback_metrics["train/generator_loss"]))
        assert np.isfinite(float(cli.trainer.callback_metrics["val/non_hair_l1/1"]))
        return
    if "ProceduralFaces" in text or "FaceAttributes" in text:
        drawn = ["--data.train=8", "--data.val=4", "--data.test=4"] if "ProceduralFaces" in text else []
        small = ["--data.batch_size=2", "--data.num_workers=0", *drawn]
    if "AttributeInpaintingGAN" in text:
        narrow = ["--model.width=8", "--model.critic_width=8", "--model.critic_steps_per_generator=1"]
        # Of two batches the second would not come: each player's step counts, and fast_dev_run limits steps, too.
        cli = main(["fit", "-c", str(config), *CPU, *small, *narrow, "--trainer.fast_dev_run=1"])
        assert cli.model.generator_steps == 1
        logged = cli.trainer.callback_metrics
        assert float(logged["val/outside"]) == 0
        assert all(np.isfinite(float(logged[f"train/{name}_loss"])) for name in ("critic", "generator"))
        return
    if config.parent.name == "demo":
        small += ["--data.root=world", "--data.train=24", "--data.val=6"]
    cli = main(["fit", "-c", str(config), *CPU, *small, "--trainer.fast_dev_run=1"])
    assert cli.trainer.global_step == 1
    assert np.isfinite(float(cli.trainer.callback_metrics["train/loss"]))


def check_gan_config(config, small):
    """Two batches (1 would be taken for all) in each of the three stages: a fast_dev_run would end with the first."""
    stages = ["--model.encoder_epochs=1", "--model.clusters=2", "--model.critic_steps_per_generator=1"]
    small = [*small, "--data.batch_size=4"]
    limits = ["--trainer.max_epochs=3", "--trainer.limit_train_batches=2", "--trainer.limit_val_batches=2"]
    quiet = ["--trainer.logger=false", "--trainer.enable_checkpointing=false", "--trainer.enable_progress_bar=false"]
    cli = main(["fit", "-c", str(config), *CPU, *small, *stages, *limits, *quiet])
    assert cli.model.generator_steps >= 1
    logged = cli.trainer.callback_metrics
    assert all(np.isfinite(float(logged[f"train/{name}_loss"])) for name in ("encoder", "critic", "generator"))


@pytest.mark.parametrize("config", EXPERIMENTS, ids=lambda path: path.stem)
def test_experiment_config_says_what_it_is_and_survives_a_round_trip(config, capsys, tmp_path):
    text = config.read_text()
    assert text.startswith("#"), "a config starts with what it does, on which data, its cost and the figure to expect"
    printed = []
    for source in (config, tmp_path / "printed.yaml"):
        with pytest.raises(SystemExit) as stop:
            main(["fit", "-c", str(source), "--print_config"])
        assert stop.value.code == 0
        printed.append(re.sub(r"(?m)^#.*\n", "", capsys.readouterr().out))
        (tmp_path / "printed.yaml").write_text(printed[0])
    assert printed[0] == printed[1]
    content = yaml.safe_load(printed[0])
    assert content["experiment"] != "default"


def test_full_size_networks_are_those_of_the_paper():
    """Fake or JPEG?: 23.5 M and 27.5 M parameters of ResNet-50 and Swin-T with two outputs."""
    from lightning_modules import ImageDetector

    def millions(detector):
        return sum(parameter.numel() for parameter in detector.backbone.parameters()) / 1e6

    assert millions(ImageDetector("resnet50")) == pytest.approx(23.5, abs=0.05)
    assert millions(ImageDetector("swin_tiny_patch4_window7_224", image_size=224)) == pytest.approx(27.5, abs=0.05)
