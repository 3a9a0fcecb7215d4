"""LatentConditionedGAN: its stages, what conditions do, sampling on demand, checkpoints."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer, seed_everything

from callbacks import SeedPerRank
from datamodules import DigitsDataModule
from lightning_modules import ContrastiveEmbedding, ImageClassifier, LatentConditionedGAN
from lightning_modules.contrastive_embedding import Views
from train import load_run

pytestmark = pytest.mark.filterwarnings("ignore:Found .* module")
QUIET = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}
CNN = {"backbone": "small_cnn", "backbone_kwargs": {"width": 4}}
TINY = {"image_size": 32, "latent_size": 4, "generator_width": 4, "critic_width": 4, "num_classes": 10}


def encoder(**options):
    adam = functools.partial(torch.optim.Adam, lr=1e-3)
    views = Views(resized_crop=None, flip=0.0, jitter_probability=0.0, grey=0.0, rotation=10)
    return ContrastiveEmbedding(**{**CNN, "image_size": 32, "views": views, "optimizer": adam, **options})


def gan(**options):
    seed_everything(0, verbose=False)
    if options.get("condition", "features") not in ("label", "none"):
        options = {"encoder": encoder(), "clusters": 4, **options}
    return LatentConditionedGAN(**{**TINY, **options})


def digits(**options):
    return DigitsDataModule(**{"image_size": 32, "train": 100, "batch_size": 25, "num_workers": 0, **options})


def fit(model, data=None, **options):
    settings = {"max_epochs": 2, "enable_checkpointing": False, "num_sanity_val_steps": 0, "limit_val_batches": 2}
    trainer = Trainer(**{**settings, **QUIET, **options})
    trainer.fit(model, datamodule=data or digits())
    return trainer


def some_images(count=6):
    data = digits()
    data.setup("fit")
    samples = [data.val_set[index] for index in range(count)]
    return torch.stack([s["image"] for s in samples]) / 255, torch.tensor([s["label"] for s in samples])


@pytest.fixture(scope="module")
def trained():
    model = gan(encoder_epochs=1)
    fit(model, max_epochs=4)
    return model.eval()


def test_stages_follow_one_another():
    model = gan(encoder_epochs=2, minibatch=5)
    seen = []

    def record(stage):
        weights = {name: value.clone() for name, value in model.state_dict().items()}
        seen.append((stage, weights, model.critic_steps))

    step = type(model).training_step
    model.training_step = lambda batch, batch_idx: (record(model.stage), step(model, batch, batch_idx))[1]
    fit(model, max_epochs=5)
    record("end")
    assert [stage for stage, *_ in seen] == ["encoder"] * 8 + ["statistics"] * 4 + ["gan"] * 8 + ["end"]

    def changed(first, second, part):
        names = [name for name in seen[first][1] if name.startswith(part) and name in seen[second][1]]
        return any(not torch.equal(seen[first][1][name], seen[second][1][name]) for name in names)

    assert changed(0, 8, "encoder")
    assert not changed(0, 8, "generator")
    assert not changed(0, 12, "critic")
    assert not changed(8, 20, "encoder")  # frozen, running statistics included
    assert changed(12, 20, "generator")
    assert seen[12][2] == 0
    assert seen[20][2] == 8 * 5
    assert model.condition.fitted


def test_statistics_are_those_of_the_features_of_training_images():
    model = gan(encoder_epochs=0, statistics_images=1000)
    data = digits()
    fit(model, data, max_epochs=1)
    images = torch.stack([data.train_set[index]["image"] for index in range(100)]).float() / 255
    model.eval()
    with torch.no_grad():
        features = model.encoder.embed(images).double()
    # A batch of the loader has equally many of each class, so not every image is seen in an epoch.
    torch.testing.assert_close(model.condition.mean, features.mean(0), rtol=0.2, atol=0.05)
    assert model.critic_steps == 0


@pytest.mark.parametrize("condition", ["features", "soft", "hard", "label", "none"])
def test_every_condition_trains_and_samples(condition):
    model = gan(condition=condition, feature_weight=0.1 if condition == "features" else 0.0)
    trainer = fit(model, max_epochs=2)
    assert model.generator_steps == (8 if condition in ("label", "none") else 4)
    assert torch.isfinite(trainer.callback_metrics["train/generator_loss"])
    assert ("train/generator_features" in trainer.callback_metrics) == (condition == "features")
    images, labels = some_images()
    sheet = model.sample_sheet({"image": images, "label": labels}, 3)
    assert sheet.shape == (6, 4, 3, 32, 32)
    assert torch.equal(sheet[:, 0], images)
    assert 0 <= sheet.min() <= sheet.max() <= 1
    assert not torch.equal(sheet[0, 1], sheet[1, 1])
    if condition in ("label", "none"):
        with pytest.raises(ValueError, match="has no clusters"):
            model.conditions_of_cluster(0)


def test_real_images_never_reach_the_generator(trained, monkeypatch):
    """Only conditions do: the generator is called with noise and vectors, whatever the images are."""
    images, labels = some_images()
    seen = []
    forward = trained.generator.forward
    monkeypatch.setattr(
        trained.generator, "forward", lambda *args: (seen.append([a.shape for a in args]), forward(*args))[1]
    )
    trained.objective({"image": images, "label": labels}, "generator")
    size = trained.condition.size
    assert seen == [[torch.Size([6, 4]), torch.Size([6, size])]]


def test_samples_follow_condition_noise_and_encoder(trained):
    images, _ = some_images()
    condition = trained.conditions_like(images)
    assert torch.equal(trained.sample(condition, 1), trained.sample(condition, 1))
    assert not torch.equal(trained.sample(condition, 1), trained.sample(condition, 2))
    assert not torch.equal(trained.sample(condition, 1), trained.sample(condition.flip(0), 1))
    with torch.no_grad():
        weight = next(trained.encoder.backbone.parameters())
        kept = weight.clone()
        weight.mul_(-1)
        changed = trained.conditions_like(images)
        weight.copy_(kept)
    assert not torch.allclose(changed, condition)


def test_sampling_on_demand(trained):
    images, labels = some_images(30)
    conditions = trained.conditions_like(images)
    between = trained.conditions_between(conditions[0], conditions[1], 5)
    torch.testing.assert_close(between[[0, -1]], conditions[:2])
    torch.testing.assert_close(between.norm(dim=1), torch.full((5,), 8.0))
    few = trained.conditions_of_label(3, images, labels, 4)
    assert few.shape == (4, trained.condition.size)
    assert all(any(torch.equal(row, other) for other in conditions[labels == 3]) for row in few)
    assert (trained.condition.cluster(trained.conditions_of_cluster(1, 3, "member") / 8) == 1).all()
    with pytest.raises(ValueError, match="None of the 30 labelled images has label 77"):
        trained.conditions_of_label(77, images, labels)


def test_shuffled_conditions_are_those_of_other_images():
    calls = []
    for shuffled in (False, True):
        model = gan(condition="label", shuffled_conditions=shuffled).eval()
        images, labels = some_images(4)
        score = model.critic.forward
        model.critic.forward = lambda x, c, score=score: (calls.append(c.argmax(1)), score(x, c))[1]
        model.objective({"image": images, "label": labels}, "critic")
    assert torch.equal(calls[0], labels)
    assert torch.equal(calls[2], labels.roll(1))
    assert torch.equal(calls[1], calls[3])  # those that images are generated for stay


def test_a_run_resumed_in_each_stage_ends_like_an_uninterrupted_one(tmp_path):
    def settings():
        return {"callbacks": [SeedPerRank()], "limit_val_batches": 0}  # views come from torch's own stream

    whole = gan(encoder_epochs=1, minibatch=5)
    fit(whole, max_epochs=4, **settings())
    for epochs in (1, 2, 3):
        fit(gan(encoder_epochs=1, minibatch=5), max_epochs=epochs, **settings()).save_checkpoint(tmp_path / "part.ckpt")
        resumed = gan(encoder_epochs=1, minibatch=5)
        trainer = Trainer(max_epochs=4, enable_checkpointing=False, **settings(), **QUIET)
        trainer.fit(resumed, datamodule=digits(), ckpt_path=tmp_path / "part.ckpt", weights_only=True)
        for name, value in whole.state_dict().items():
            assert torch.equal(value, resumed.state_dict()[name]), (epochs, name)


def test_the_judge_measures_and_stays_out_of_the_checkpoint(tmp_path):
    judge = ImageClassifier(**CNN, num_classes=10)
    model = gan(condition="label", judge=judge, judge_name="cnn")
    assert model.monitor == ("val/distance", "min")
    trainer = fit(model, max_epochs=1)
    logged = trainer.callback_metrics
    names = {"FID[cnn,50]", "FID_floor[cnn,50]", "KID[cnn,50]", "IS[cnn,50]", "coverage[cnn,50]", "distance"}
    assert {f"val/{name}" for name in names | {"conditional_accuracy", "class_entropy"}} <= logged.keys()
    trainer.save_checkpoint(tmp_path / "gan.ckpt")
    state = torch.load(tmp_path / "gan.ckpt", weights_only=True)["state_dict"]
    assert {name.split(".")[0] for name in state} == {"generator", "critic", "average"}
    loaded = LatentConditionedGAN.load_from_checkpoint(tmp_path / "gan.ckpt", weights_only=True).eval()
    condition = loaded.conditions_like(*some_images())
    assert torch.equal(loaded.sample(condition), model.eval().sample(condition))
    tested = trainer.test(model, datamodule=digits(), verbose=False)[0]
    assert tested.keys() >= {"test/distance", "test/conditional_accuracy"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"encoder": None}, r"model\.condition=features needs a model\.encoder"),
        ({"condition": "class"}, "condition='class' is not one of"),
        ({"image_size": None}, r"model\.image_size is missing"),
        ({"condition": "label", "num_classes": None}, r"needs model\.num_classes"),
        ({"jitter": -0.1}, r"jitter=-0\.1"),
        ({"image_size": 48}, "image_size=48"),
    ],
)
def test_mistakes_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        gan(**options)


def test_from_the_command_line_to_a_notebook(cli):
    """Stage one is reused from a checkpoint, predict takes the last one where no best is kept, load_run rebuilds it."""
    recipe = ["--model=LatentConditionedGAN", "--model.encoder=ContrastiveEmbedding", "--model.latent_size=4"]
    recipe += ["--model.encoder.backbone=small_cnn", "--model.encoder.backbone_kwargs={width: 4}"]
    recipe += ["--model.encoder.image_size=32", "--model.generator_width=4", "--model.critic_width=4"]
    recipe += ["--data=DigitsDataModule", "--data.image_size=32", "--data.train=100", "--data.batch_size=50"]
    recipe += ["--data.num_workers=0", "--trainer.limit_val_batches=0", "--trainer.enable_model_summary=false"]
    cli("fit", *recipe, "--model.encoder_epochs=1", "--trainer.max_epochs=3", "--experiment=whole")
    (run,) = Path("runs/whole").iterdir()
    model = load_run(run)
    assert isinstance(model, LatentConditionedGAN)
    assert not model.training
    assert model.generator_steps == 2
    state = torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    drawn = ["--trainer.limit_predict_batches=2", "--trainer.callbacks+=SampleGrid"]
    cli("predict", *recipe, *drawn, "--experiment=whole")
    (predicted,) = Path("runs/whole").glob("*-predict")
    assert len(list((predicted / "samples").glob("*.png"))) == 100
    reused = [f"--model.encoder.weights={run}/checkpoints/last.ckpt", "--model.encoder_epochs=0"]
    again = cli("fit", *recipe, *reused, "--trainer.max_epochs=2", "--experiment=again").model
    images, _ = some_images()
    torch.testing.assert_close(again.eval().encoder.embed(images), model.encoder.embed(images))
    with pytest.raises(FileNotFoundError, match=r"config\.yaml does not exist: give the folder of a finished fit"):
        load_run("runs")
