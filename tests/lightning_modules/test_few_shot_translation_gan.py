"""FewShotTranslationGAN: what adaptation learns and leaves alone, meta-gradients, resuming, and its figures."""

from __future__ import annotations

import copy
import functools
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import Trainer, seed_everything
from torch import nn

from datamodules import ProceduralFewShotDataModule
from datamodules.synthetic.face_parameters import HAIR_COLOURS, draw_faces
from datamodules.synthetic.faces import hair_mask, render_faces
from functional.recolouring import mean_colour, nearest_colour
from lightning_modules import AttributeClassifier, FewShotTranslationGAN, ImageClassifier
from lightning_modules.few_shot_checks import check_data
from lightning_modules.few_shot_evaluation import FewShotFigures, TranslationJudge
from lightning_modules.few_shot_translation_gan import OuterSGD
from lightning_modules.inner_loop import InnerLoop, weights_of
from lightning_modules.networks.additive_translator import AdditiveTranslator
from lightning_modules.translation_task import TranslationLosses, TranslationTask, one_hot
from lightning_modules.translator import Translator

pytestmark = pytest.mark.filterwarnings("ignore:Found .* module", "ignore:The '.*_dataloader' does not have many")
QUIET = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}
TINY = {"width": 4, "blocks": 1, "critic_width": 4, "inner_steps": 2, "inner_batch": 4, "adaptation_steps": [0, 1, 2]}
NAMES = list(HAIR_COLOURS)


def gan(**options):
    seed_everything(0, verbose=False)
    return FewShotTranslationGAN(**{**TINY, **options})


def episodes(**options):
    small = {"train": 64, "shots": 3, "sources": 8, "queries": 6, "train_tasks": 4, "test_draws": 1}
    return ProceduralFewShotDataModule(**{**small, "num_workers": 0, "batch_size": 2, **options})


def fit(model, **options):
    settings = {"max_epochs": 1, "enable_checkpointing": False, "num_sanity_val_steps": 0, "limit_val_batches": 0}
    trainer = Trainer(**{**settings, **QUIET, **options})
    trainer.fit(model, datamodule=episodes())
    return trainer


def task(seed=0, colour="teal", count=5):
    shots = render_faces(draw_faces(count, torch.Generator().manual_seed(seed), (colour,)), 16)
    faces = draw_faces(8, torch.Generator().manual_seed(seed + 1), tuple(NAMES[:8]))
    return TranslationTask(shots, render_faces(faces, 16), faces.hair, (seed,))


def state(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def test_adaptation_leaves_the_weights_alone_and_is_repeatable(tmp_path):
    model, drawn = gan(), task()
    before = state(model)
    translator = model.adapt(drawn.shots, 3, drawn.sources)
    assert same(state(model), before)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(parameter.requires_grad for parameter in translator.parameters())
    x = drawn.sources
    made = translator(x)
    assert torch.equal(made, model.adapt(drawn.shots, 3, drawn.sources)(x))
    assert not torch.equal(made, model.adapt(drawn.shots, 3, drawn.sources, seed=1)(x))
    assert not torch.equal(made, model(x))
    assert made.shape == x.shape
    assert 0 <= made.min() <= made.max() <= 1
    translator.save(tmp_path / "teal.pt")
    assert torch.equal(Translator.load(tmp_path / "teal.pt")(x), made)
    torch.save({"a": 1}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match="is no translator"):
        Translator.load(tmp_path / "other.pt")
    with pytest.raises(ValueError, match="0 shots and 8 sources"):
        model.adapt(drawn.shots[:0], 3, drawn.sources)
    (tmp_path / "junk.pt").write_bytes(b"1234")
    with pytest.raises(ValueError, match=r"junk\.pt is no translator"):
        Translator.load(tmp_path / "junk.pt")
    with pytest.raises(ValueError, match=r"steps=-1; it needs"):
        model.adapt(drawn.shots, -1, drawn.sources)
    with pytest.raises(ValueError, match=r"shots reach from 9 to .*; divide bytes by 255"):
        model.adapt((drawn.shots * 255).round(), 3, drawn.sources)
    with pytest.raises(ValueError, match="17 x 16 pixels: sides must be multiples of 2"):
        translator(torch.rand(1, 3, 17, 16))
    with torch.inference_mode():  # as in Lightning's evaluation
        inside = model.adapt(drawn.shots.clone(), 3, drawn.sources.clone())
    assert torch.equal(inside(x), made)


def test_one_reptile_step_with_one_inner_sgd_step_is_plain_training():
    model = gan(inner_steps=1, inner_optimizer="sgd", inner_lr=0.05)
    drawn = task()
    gradients, _ = model.meta_gradient([drawn])
    networks = {name: copy.deepcopy(network) for name, network in model.networks.items()}
    minibatch = drawn.minibatch(0, 4)
    for name in ("critic", "generator"):
        loss = model.losses.total(name, networks["generator"], networks["critic"], minibatch)
        values = list(networks[name].parameters())
        slopes = torch.autograd.grad(loss, values)
        with torch.no_grad():
            for value, slope in zip(values, slopes, strict=True):
                value -= 0.05 * slope
    for before, gradient, after in zip(weights_of(model.networks), gradients, weights_of(networks), strict=True):
        torch.testing.assert_close(before - gradient, after)


@pytest.mark.parametrize(("halved_after", "sizes"), [(None, 4), (2.0, 1 + 2 / 3 + 1 / 2 + 2 / 5)])
def test_inner_steps_shrink_as_asked(halved_after, sizes):
    """Where every slope is 1, descent moves by the sum of its step sizes; first-order MAML takes the same steps."""

    class Slope:
        def total(self, player, generator, critic, minibatch, through=False):
            return (generator if player == "generator" else critic)(torch.ones(1, 1)).sum()

    networks = {name: nn.Linear(1, 1, bias=False) for name in ("generator", "critic")}
    start = [weight.item() for weight in weights_of(networks)]
    loop = InnerLoop(Slope(), 4, 0.1, "sgd", 4, halved_after)
    _, ends = loop.maml(networks, [task()], first_order=True)
    loop.learn(networks, task())
    for weight, before, end in zip(weights_of(networks), start, ends.values(), strict=True):
        assert weight.item() == pytest.approx(before - 0.1 * sizes, abs=1e-6)
        assert end.item() == pytest.approx(before - 0.1 * sizes, abs=1e-6)


class _Maker(nn.Module):
    """A generator with few smooth weights."""

    def __init__(self):
        super().__init__()
        self.mix = nn.Conv2d(3 + 2, 3, 1)

    def forward(self, x, attributes):
        maps = attributes.to(x.dtype)[:, :, None, None].expand(-1, -1, *x.shape[2:])
        return torch.sigmoid(self.mix(torch.cat([x, maps], 1)))


class _Critic(nn.Module):
    """A critic with few smooth weights."""

    def __init__(self):
        super().__init__()
        self.score, self.classes = nn.Linear(3, 1), nn.Linear(3, 2)

    def forward(self, x):
        h = torch.tanh(3 * x.mean((2, 3)))
        return self.score(h), self.classes(h)


@pytest.mark.parametrize("player", ["generator", "critic"])
def test_the_meta_gradient_of_maml_equals_finite_differences(player):
    torch.manual_seed(0)
    networks = {"generator": _Maker().double(), "critic": _Critic().double()}
    images = torch.rand(9, 3, 4, 4, dtype=torch.float64)
    drawn = TranslationTask(images[:4], images[4:], torch.zeros(5, dtype=torch.long), (0,))
    smooth = TranslationLosses(2, content_weight=0.0, identity_weight=0.0)
    loop = InnerLoop(smooth, 2, 0.3, "sgd", 4)
    gradients, _ = loop.maml(networks, [drawn], first_order=False)
    first, _ = loop.maml(networks, [drawn], first_order=True)
    weights = weights_of(networks)
    size = len(list(networks["generator"].parameters()))
    chosen = range(size) if player == "generator" else range(size, len(weights))
    direction = [torch.randn_like(weight) if index in chosen else None for index, weight in enumerate(weights)]

    def after(sign):
        moved = {name: copy.deepcopy(network) for name, network in networks.items()}
        with torch.no_grad():
            for weight, part in zip(weights_of(moved), direction, strict=True):
                if part is not None:
                    weight += sign * 5e-3 * part
        _, losses = loop.maml(moved, [drawn], first_order=True)
        return losses[player].item()

    slope = (after(1) - after(-1)) / 1e-2  # losses are float32
    along = [float((found[i] * direction[i]).sum()) for found in (gradients, first) for i in chosen]
    assert sum(along[: len(chosen)]) == pytest.approx(slope, rel=2e-3)
    assert sum(along[len(chosen) :]) != pytest.approx(slope, rel=2e-2)  # the first-order one is another


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"meta": "fomaml", "inner_optimizer": "sgd", "inner_lr": 0.01},
        {"meta": "maml", "inner_optimizer": "sgd", "inner_lr": 0.01, "gan_loss": "wasserstein"},
        {"meta": "joint"},
        {"network": "stargan", "gradient_penalty_weight": 10.0, "reconstruction_weight": 10.0},
        {"outer_optimizer": functools.partial(torch.optim.Adam, lr=1e-3), "gan_loss": "hinge", "class_weight": 0.0},
    ],
)
def test_every_variant_trains(options):
    model = gan(**options)
    before = state(model)
    logged = fit(model).callback_metrics
    assert model.outer_steps == 2
    assert torch.isfinite(logged["train/generator_loss"])
    changed = {name.split(".")[0] for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"generator", "critic"}


def test_outer_steps_shrink_and_end_and_a_resumed_run_repeats_an_uninterrupted_one(tmp_path):
    whole = gan(max_outer_steps=4)
    fit(whole, max_epochs=3)
    assert whole.outer_steps == 4
    part = gan(max_outer_steps=4)
    fit(part).save_checkpoint(tmp_path / "part.ckpt")
    assert part.outer_steps == 2
    resumed = gan(max_outer_steps=4, noise_seed=0)
    trainer = Trainer(max_epochs=3, limit_val_batches=0, enable_checkpointing=False, **QUIET)
    trainer.fit(resumed, datamodule=episodes(), ckpt_path=tmp_path / "part.ckpt")
    assert resumed.outer_steps == 4
    assert same(state(resumed), state(whole))
    moved = gan(max_outer_steps=4, outer_decay=0.0, outer_optimizer=functools.partial(OuterSGD, lr=1.0))
    moved.outer_steps = 3  # the last step has the size 0
    before = state(moved)
    fit(moved, max_steps=1)
    assert same(state(moved), before)


def test_a_finished_run_that_is_resumed_ends(tmp_path):
    whole = gan(max_outer_steps=2)
    fit(whole, max_epochs=-1).save_checkpoint(tmp_path / "whole.ckpt")
    again = gan(max_outer_steps=2)
    trainer = Trainer(max_epochs=-1, limit_val_batches=0, enable_checkpointing=False, max_time="00:00:01:00", **QUIET)
    trainer.fit(again, datamodule=episodes(), ckpt_path=tmp_path / "whole.ckpt")
    assert trainer.current_epoch <= 2
    assert same(state(again), state(whole))


def test_adaptation_within_autocast_is_rounded_and_no_more():
    """The cache of autocast would hold weights as they were before a step."""
    model, drawn = gan(width=8, inner_optimizer="sgd", inner_lr=0.1, content_weight=0.0), task()
    before, exact = (model.adapt(drawn.shots, steps, drawn.sources)(drawn.sources) for steps in (0, 20))
    with torch.autocast("cpu", torch.bfloat16):
        rounded = model.adapt(drawn.shots, 20, drawn.sources)
    assert (rounded(drawn.sources) - exact).abs().mean() < 0.05 * (exact - before).abs().mean()


@pytest.mark.parametrize(
    ("options", "precision", "message"),
    [
        ({"source_slots": 3}, "32-true", r"data have 8 classes of sources: set model\.source_slots to 8"),
        ({"source_slots": 8}, "bf16-true", r"trainer\.precision=bf16-true: .* use bf16-mixed or 32-true"),
    ],
)
def test_what_does_not_fit_together_is_refused_before_training(options, precision, message):
    with pytest.raises(ValueError, match=message):
        fit(gan(**options), precision=precision)


def test_a_judge_of_other_classes_is_refused():
    judge = AttributeClassifier(["b", "a", "c"], backbone_kwargs={"width": 4})
    with pytest.raises(ValueError, match=r"judge tells .* apart, but data.classes are"):
        check_data(SimpleNamespace(known=(0, 1), classes=["a", "b", "c"]), 2, judge)
    check_data(SimpleNamespace(known=(0, 1), classes=["b", "a", "c"]), 2, judge)


def test_a_joint_batch_is_the_mean_over_its_tasks():
    model = gan(adaptation_steps=[2])
    tasks = [task(0), task(7, "red")]
    together, _ = model.meta_gradient(tasks)
    apart = [model.meta_gradient([one])[0] for one in tasks]
    for mean, one, other in zip(together, *apart, strict=True):
        torch.testing.assert_close(mean, (one + other) / 2)
    batch = {
        "support_image": torch.stack([one.shots for one in tasks]),
        "source_image": torch.stack([one.sources for one in tasks]),
        "source_slot": torch.stack([one.slots for one in tasks]),
    }
    assert [one.seed for one in model.tasks(batch)] == [(0, 0, 0), (0, 0, 1)]
    (joined,) = gan(meta="joint").tasks(batch)
    assert len(joined.shots) == 10
    assert model.objective(batch).item() == model.objective(batch).item()
    assert model.objective(batch, "critic").requires_grad


def colours_after(model, drawn, steps):
    """Share of held-out faces with hair nearest to each colour, after adaptation."""
    faces = draw_faces(60, torch.Generator().manual_seed(99), tuple(NAMES[:8]))
    hair = hair_mask(faces, 16)
    made = model.adapt_to(drawn, [steps])[steps](render_faces(faces, 16))
    seen = nearest_colour(mean_colour(made, hair * (hair > 0.5)), torch.tensor(list(HAIR_COLOURS.values())))
    return seen.bincount(minlength=len(NAMES)) / len(seen)


def test_shots_decide_the_colour():
    """Near zero before adaptation; afterwards hair has the colour of the shots and not another held-out one."""
    model = gan(width=12, blocks=2, critic_width=16, inner_batch=10, inner_lr=5e-3, content_weight=0.5)
    for colour, other in (("teal", "purple"), ("purple", "teal")):
        drawn = task(3, colour, 10)
        assert colours_after(model, drawn, 0)[NAMES.index(colour)] <= 0.15
        after = colours_after(model, drawn, 80)
        assert after[NAMES.index(colour)] >= 0.3  # from scratch
        assert after[NAMES.index(other)] <= 0.1


def test_figures_of_truth_and_of_copies():
    data = episodes(queries=20)
    data.setup("fit")
    batch = torch.utils.data.default_collate([data.val_set[(index, index)] for index in range(4)])
    batch = data.on_after_batch_transfer(batch, 0)
    judge = TranslationJudge(ImageClassifier("small_cnn", num_classes=12, backbone_kwargs={"width": 4}), "cnn")
    figures = FewShotFigures(judge)
    for index in range(4):
        one = {key: value[index] for key, value in batch.items()}
        copied = figures.score(lambda x: x, one)
        assert copied["colour_accuracy"] == 0
        assert copied["non_hair_l1"] == 0
        assert copied["counterfactual_l1"] > 0.2
        count = min(20, len(one["query_real"]))
        assert copied[f"FID[cnn,{count}]"] == copied[f"FID_copy[cnn,{count}]"]
        true = figures.score(lambda x, one=one: one["query_truth"], one)
        assert true["colour_accuracy"] == 1
        assert true["non_hair_l1"] < 0.06  # brows and moustaches have the colour of the hair
        assert true["counterfactual_l1"] == 0
        assert true["hair_colour_error"] < 0.05 < 0.15 < copied["hair_colour_error"]
        figures.update(5, {"colour_accuracy": index / 4})
    assert figures.compute(lambda rows: rows * 2) == {"colour_accuracy/5": 0.375}
    assert figures.rows == []
    with pytest.raises(ValueError, match="judge_name is empty"):
        TranslationJudge(judge.classifier, " ")


def test_validation_logs_a_curve_and_judges_stay_out_of_checkpoints(tmp_path):
    judge = ImageClassifier("small_cnn", num_classes=12, backbone_kwargs={"width": 4})
    model = gan(judge=judge, judge_name="cnn")
    trainer = Trainer(max_epochs=1, enable_checkpointing=False, num_sanity_val_steps=1, **QUIET)
    trainer.fit(model, datamodule=episodes())
    names = ("colour_accuracy", "judge_accuracy", "non_hair_l1", "counterfactual_l1")
    assert {f"val/{name}/{steps}" for name in names for steps in (0, 1, 2)} <= trainer.callback_metrics.keys()
    assert model.monitor == ("val/judge_accuracy/1", "max")
    trainer.save_checkpoint(tmp_path / "gan.ckpt")
    kept = torch.load(tmp_path / "gan.ckpt", weights_only=True)
    assert {name.split(".")[0] for name in kept["state_dict"]} == {"generator", "critic"}
    again = FewShotTranslationGAN.load_from_checkpoint(tmp_path / "gan.ckpt", weights_only=True)
    assert again.outer_steps == 2
    drawn = task()
    assert torch.equal(again.eval()(drawn.sources), model.eval()(drawn.sources))


def test_minibatches_follow_from_seed_and_step():
    drawn = task()
    one, again, later = drawn.minibatch(3, 6), drawn.minibatch(3, 6), drawn.minibatch(4, 6)
    assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True))
    assert not torch.equal(one.sources, later.sources)
    assert one_hot(torch.tensor([1, -1]), 3).tolist() == [[0, 1, 0], [0, 0, 0]]


def test_the_label_vector_reaches_the_output_and_every_weight_has_a_gradient():
    network = AdditiveTranslator(3, 4, 2, 2)
    x = torch.rand(2, 3, 16, 12)
    one, other = (network(x, one_hot(torch.tensor([slot, slot]), 3)) for slot in (0, 2))
    assert one.shape == x.shape
    assert not torch.equal(one, other)
    one.square().mean().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().max() > 0 for parameter in network.parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"meta": "leap"}, "meta='leap' is not one of reptile, fomaml, maml, joint"),
        ({"meta": "maml"}, r"set model\.inner_optimizer to sgd"),
        ({"network": "unet"}, "network='unet' is neither additive nor stargan"),
        ({"inner_steps": 0}, r"model\.inner_steps=0 must be at least 1"),
        ({"adaptation_steps": [-1]}, r"adaptation_steps=\[-1\]"),
        ({"content_weight": -1.0}, "none below 0"),
        ({"inner_lr_halved_after": 0.0}, r"inner_lr_halved_after=0\.0 must be positive, or null"),
        ({"adaptation_lr": -1.0}, r"adaptation_lr=-1\.0 must be positive, or null"),
        ({"outer_decay": 2.0}, r"outer_decay=2\.0 must lie"),
        ({"critic_depth": 5}, r"image_size=16 must be a multiple of 2 for the generator and of 32"),
        ({"depth": -1}, r"model\.depth=-1"),
        ({"width": 0}, r"model\.width=0 must be at least 1"),
    ],
)
def test_mistakes_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        gan(**options)


def test_losses_that_are_not_finite_stop_the_run():
    with pytest.raises(FloatingPointError, match=r"lower model\.inner_lr"):
        gan(inner_lr=1e20, inner_optimizer="sgd", inner_steps=4).meta_gradient([task()])
    with pytest.raises(ValueError, match=r"set data\.shots_root"):
        gan().predict_step({"image": torch.zeros(1, 3, 16, 16), "path": ["a"]}, 0)
