"""AttributeInpaintingGAN: what may leak, what must stay, what follows the context, and its figures."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer, seed_everything
from PIL import Image

from callbacks import EditWriter, PredictionWriter, SampleGrid
from datamodules import ProceduralFacesDataModule
from datamodules.synthetic.face_parameters import draw_faces
from datamodules.synthetic.faces import face_landmarks, render_faces
from functional.face_regions import box_masks, mask_boxes, region_boxes
from lightning_modules import AttributeClassifier, AttributeInpaintingGAN, GANAdam, ImageClassifier
from lightning_modules.attribute_editing import target_attributes
from lightning_modules.networks.inpainting import ContextualInpainter

pytestmark = pytest.mark.filterwarnings("ignore:Found .* module")
NAMES = ["smile", "moustache"]
QUIET = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}
TINY = {"attributes": NAMES, "width": 4, "critic_width": 4, "critic_depth": 2, "local_size": 8}


def gan(**options):
    seed_everything(0, verbose=False)
    return AttributeInpaintingGAN(**{**TINY, **options})


def faces(**options):
    settings = {"train": 16, "val": 8, "test": 8, "image_size": 16, "batch_size": 8, "num_workers": 0}
    return ProceduralFacesDataModule(NAMES, ["mouth"], **{**settings, **options})


def fit(model, **options):
    settings = {"max_epochs": 1, "enable_checkpointing": False, "num_sanity_val_steps": 0}
    trainer = Trainer(**{**settings, **QUIET, **options})
    trainer.fit(model, datamodule=faces())
    return trainer


def some(count=4, size=16, drawn=None):
    drawn = draw_faces(count, torch.Generator().manual_seed(5)) if drawn is None else drawn
    mask = box_masks(region_boxes(face_landmarks(drawn, size), "mouth"), size, size)
    return {
        "image": render_faces(drawn, size),
        "mask": mask,
        "box": mask_boxes(mask),
        "attributes": drawn.attributes(NAMES),
    }


@pytest.mark.parametrize("network", ["small", "contextual"])
def test_nothing_leaks_out_of_the_mask_and_nothing_outside_changes(network):
    model, batch = gan(network=network).eval(), some()
    x, mask, own = batch["image"], batch["mask"], batch["attributes"]
    made = model(x, mask, 1 - own)
    spoilt = torch.where(mask > 0, torch.rand(x.shape), x)
    inside = mask.bool().expand_as(x)
    assert torch.equal(model(spoilt, mask, 1 - own), made)
    assert torch.equal(model(torch.where(mask > 0, torch.nan, x), mask, 1 - own), made)
    assert torch.equal(made[~inside], x[~inside])
    assert not torch.equal(made[inside], x[inside])
    assert not torch.equal(model(x, mask, own), made)  # attributes reach the output


@pytest.mark.parametrize("size", [(15, 17), (24, 21)])
def test_the_contextual_generator_takes_any_size(size):
    network = ContextualInpainter(2, 4)
    x, mask = torch.rand(2, 3, *size), torch.zeros(2, 1, *size)
    mask[..., 4:9, 5:11] = 1
    stages = network(x, mask, torch.ones(2, 2))
    assert [stage.shape for stage in stages] == [x.shape, x.shape]
    assert 0 <= min(stage.min() for stage in stages) <= max(stage.max() for stage in stages) <= 1
    sum(stage.mean() for stage in stages).backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


@pytest.mark.parametrize(
    "options",
    [
        {"gradient_penalty_weight": 1.0, "gan_loss": "wasserstein"},
        {"network": "contextual", "critic_augmentation": 0.1, "perceptual": True},
        {"network": "whole", "attribute_weight": 0.0},
    ],
)
def test_every_variant_trains(options):
    if "perceptual" in options:
        options["perceptual"] = ImageClassifier("small_cnn", num_classes=2, backbone_kwargs={"width": 4})
    model = gan(**options)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    logged = fit(model).callback_metrics
    assert model.generator_steps == 2
    assert torch.isfinite(logged["train/generator_loss"])
    assert ("train/generator_attributes" in logged) == (options.get("attribute_weight") != 0)
    assert ("train/generator_perceptual" in logged) == ("perceptual" in options)
    assert ("train/critic_gradient_penalty" in logged) == ("gradient_penalty_weight" in options)
    assert logged["val/outside"] == 0 or options.get("network") == "whole"
    assert {name.split(".")[0] for name in before} == {"generator", "critic", "average"}
    changed = {name.split(".")[0] for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"generator", "critic", "average"}


def test_the_filling_follows_the_skin_around_it():
    """Swap test: of the same faces in other skin the region's mean colour moves with that of the truth."""
    adam = functools.partial(GANAdam, lr=3e-3, betas=(0.5, 0.99))
    model = gan(width=8, ema_decay=0.9, generator_optimizer=adam, reconstruction_weight=10.0)
    data = faces(train=1600, batch_size=16)
    Trainer(max_epochs=1, limit_val_batches=0, enable_checkpointing=False, **QUIET).fit(model, datamodule=data)
    drawn = draw_faces(96, torch.Generator().manual_seed(9))
    batch = some(drawn=drawn)
    changed = drawn.with_attributes({"smile": 1 - drawn.smile})
    model.eval()
    with torch.no_grad():
        made = model(batch["image"], batch["mask"], changed.attributes(NAMES))
    truth, mask = render_faces(changed, 16), batch["mask"]

    def colour(images):
        return (images * mask).sum((2, 3)) / mask.sum((2, 3))

    pairs = zip(colour(made).T, colour(truth).T, strict=True)
    assert min(float(torch.corrcoef(torch.stack(pair))[0, 1]) for pair in pairs) >= 0.9


def test_the_judge_stays_out_and_truths_are_compared(tmp_path):
    judge = AttributeClassifier(NAMES, backbone_kwargs={"width": 4}, crop_size=8)
    model = gan(judge=judge, judge_name="cnn", embedder=ImageClassifier("small_cnn", num_classes=2))
    trainer = fit(model, callbacks=[SampleGrid(rows=2, columns=4)])
    logged = trainer.callback_metrics
    single = {"transfer_accuracy", "preservation", "psnr", "ssim", "seam", "seam_real", "identity"}
    both = {f"{name}/{a}" for name in ("transfer", "preservation", "kept", "counterfactual_l1") for a in NAMES}
    assert {f"val/{name}" for name in {*single, *both, "FID[cnn region,8]"}} <= logged.keys()
    trainer.save_checkpoint(tmp_path / "gan.ckpt")
    state = torch.load(tmp_path / "gan.ckpt", weights_only=True)["state_dict"]
    assert {name.split(".")[0] for name in state} == {"generator", "critic", "average"}
    again = AttributeInpaintingGAN.load_from_checkpoint(tmp_path / "gan.ckpt", weights_only=True).eval()
    batch = some()
    parts = batch["image"], batch["mask"], batch["attributes"]
    assert torch.equal(again(*parts), model.eval()(*parts))
    with pytest.raises(ValueError, match="both need the same, in order"):
        gan(judge=AttributeClassifier(NAMES[::-1]))


def test_a_perfect_edit_has_perfect_figures():
    """Counterfactuals themselves, judged by a judge that knows them."""
    drawn = draw_faces(8, torch.Generator().manual_seed(2))
    batch = some(drawn=drawn)
    truths = [render_faces(drawn.with_attributes({name: 1 - getattr(drawn, name)}), 16) for name in NAMES]
    edits = torch.stack([torch.where(batch["mask"] > 0, t, batch["image"]) for t in truths], dim=1)
    model = gan(judge=AttributeClassifier(NAMES))
    known = {tuple(x.flatten()[::7].tolist()): a for x, a in zip(batch["image"], batch["attributes"], strict=True)}
    for column, image in enumerate(edits.unbind(1)):
        for x, own in zip(image, batch["attributes"], strict=True):
            wanted = own.clone()
            wanted[column] = 1 - wanted[column]
            known[tuple(x.flatten()[::7].tolist())] = wanted
    look_up = lambda images, boxes: torch.stack([known[tuple(x.flatten()[::7].tolist())] for x in images]) - 0.5  # noqa: E731
    model.quality.judge.forward = look_up
    model.quality.update({**batch, "counterfactuals": torch.stack(truths, dim=1)}, batch["image"], edits)
    figures = model.quality.compute(torch.cat)
    for name in NAMES:
        assert figures[f"transfer/{name}"] == figures[f"preservation/{name}"] == figures[f"kept/{name}"] == 1
        assert figures[f"counterfactual_l1/{name}"] < 0.01
    assert figures["outside"] == 0
    assert figures["psnr"] == 100
    assert figures["ssim"] == pytest.approx(1)
    assert 0.5 < figures["seam"] / figures["seam_real"] < 2


def test_predict_writes_edits_beside_what_they_were_made_from(tmp_path):
    model = gan(edit={"moustache": False})
    trainer = Trainer(default_root_dir=tmp_path, callbacks=[EditWriter(side_by_side=True), PredictionWriter()], **QUIET)
    outputs = trainer.predict(model, datamodule=faces())
    assert outputs[0]["after"][:, 1].sum() == 0
    assert torch.equal(outputs[0]["after"][:, 0], outputs[0]["before"][:, 0])
    files = sorted((tmp_path / "edits").glob("*.png"))
    assert len(files) == 8
    data = faces()
    data.setup("predict")
    picture = np.asarray(Image.open(files[0]))
    assert picture.shape == (16, 32, 3)
    assert np.array_equal(picture[:, :16], data.predict_set[0]["image"].permute(1, 2, 0).numpy())
    assert np.array_equal(picture[0, 16:], picture[0, :16])
    unknown = {key: value for key, value in some().items() if key != "attributes"}
    assert model.predict_step({**unknown, "path": list("abcd")}, 0)["before"].shape == (4, 2)
    assert model.sample_sheet(unknown, 3).shape == (4, 4, 3, 16, 16)
    with pytest.raises(ValueError, match=r"model\.edit is empty"):
        gan().predict_step({**some(), "path": list("abcd")}, 0)
    with pytest.raises(TypeError, match="EditWriter needs ImageClassifier"):
        EditWriter().on_predict_batch_end(trainer, ImageClassifier("small_cnn", num_classes=2), None, {}, 0)


def test_the_classifier_weighs_both_values_alike():
    judge = AttributeClassifier(["rare"])
    judge.positives, judge.seen = torch.tensor([10.0]), torch.tensor(100.0)
    logits, truth = torch.zeros(100, 1), (torch.arange(100) < 10).float()[:, None]
    assert judge.loss(logits, truth).item() == pytest.approx(np.log(2), rel=1e-5)
    one, other = judge.loss(logits + 1, truth), judge.loss(logits - 1, truth)
    assert one.item() == pytest.approx(other.item(), rel=1e-5)
    with pytest.raises(ValueError, match=r"model\.crop_size looks at regions"):
        AttributeClassifier(["rare"], crop_size=8)(torch.zeros(1, 3, 16, 16))


def test_the_classifier_learns_faces():
    seed_everything(0, verbose=False)
    adam = functools.partial(torch.optim.Adam, lr=5e-3)
    judge = AttributeClassifier(NAMES, backbone_kwargs={"width": 8}, crop_size=16, optimizer=adam)
    trainer = Trainer(max_epochs=2, enable_checkpointing=False, num_sanity_val_steps=0, **QUIET)
    data = faces(train=800, val=200, batch_size=40)
    trainer.fit(judge, datamodule=data)
    assert trainer.callback_metrics["val/balanced_accuracy"] > 0.9


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"network": "large"}, "network='large' is not one of"),
        ({"attributes": []}, r"model\.attributes is empty"),
        ({"edit": {"beard": True}}, "beard is not among the attributes smile, moustache"),
        ({"local_size": 12}, r"model\.local_size=12"),
        ({"attribute_weight": -1.0}, r"attribute_weight=-1\.0"),
    ],
)
def test_mistakes_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        gan(**options)


def test_edits_set_what_they_name():
    own = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert target_attributes(own, NAMES, {"moustache": True}).tolist() == [[1, 1], [0, 1]]
    assert own.tolist() == [[1, 0], [0, 1]]
