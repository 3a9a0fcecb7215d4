"""CelebA's layouts, splits, regions and the refusal of attributes that say nothing."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import noise, write_image
from lightning.pytorch import Trainer

from datamodules import FaceAttributesDataModule, ProceduralFacesDataModule

NAMES = [f"{index:06d}.jpg" for index in range(1, 21)]
POINTS = ("lefteye", "righteye", "nose", "leftmouth", "rightmouth")


@pytest.fixture
def faces(tmp_path):
    """Twenty aligned images; every second smiles, every fourth has a moustache."""
    rng = np.random.default_rng(0)
    for name in NAMES:
        write_image(tmp_path / "celeba" / "img_align_celeba" / name, noise(rng, 218, 178))
    values = {"Smiling": [1 if i % 2 else -1 for i in range(20)], "Mustache": [-1 if i % 4 else 1 for i in range(20)]}
    pd.DataFrame(values, index=pd.Index(NAMES, name="image_id")).to_csv(tmp_path / "celeba" / "list_attr_celeba.csv")
    return tmp_path / "celeba"


def data(root, **options):
    settings = {"attributes": ["Smiling", "Mustache"], "regions": ["mouth"], "image_size": 32, "batch_size": 4}
    return FaceAttributesDataModule(str(root), **{**settings, "num_workers": 0, **options})


def read_all(module):
    for stage in ("fit", "test"):
        module.setup(stage)
    for part in (module.train_set, module.val_set, module.test_sets["faces"]):
        for index in range(len(part)):
            part[index]


def as_official(root):
    table = pd.read_csv(root / "list_attr_celeba.csv", index_col=0)
    lines = [str(len(table)), " ".join(table.columns), *(f"{n} {r.Smiling} {r.Mustache}" for n, r in table.iterrows())]
    (root / "list_attr_celeba.csv").unlink()
    (root / "Anno").mkdir()
    (root / "Anno" / "list_attr_celeba.txt").write_text("\n".join(lines) + "\n")
    (root / "Eval").mkdir()
    parts = [f"{name} {0 if i < 12 else 1 if i < 16 else 2}" for i, name in enumerate(NAMES)]
    (root / "Eval" / "list_eval_partition.txt").write_text("\n".join(parts) + "\n")
    heads = " ".join(f"{point}_{axis}" for point in POINTS for axis in "xy")
    rows = [f"{name} 60 100 120 100 90 130 70 160 110 160" for name in NAMES]
    (root / "Anno" / "list_landmarks_align_celeba.txt").write_text("\n".join(["20", heads, *rows]) + "\n")


def test_the_official_layout_gives_its_own_split_and_landmarks(faces):
    as_official(faces)
    (faces / "img_align_celeba" / NAMES[19]).unlink()  # a sample of the data set is enough
    module = data(faces)
    module.setup("fit")
    module.setup("test")
    assert [len(part) for part in (module.train_set, module.val_set, module.test_sets["faces"])] == [12, 4, 3]
    sample = module.train_set[1]
    assert sample["attributes"].tolist() == [1, 0]
    assert module.train_set[0]["attributes"].tolist() == [0, 1]
    # x stays as it is and y loses 20 rows above the square of 178.
    torch.testing.assert_close(sample["landmarks"][0], torch.tensor([60.0, 80.0]) * 32 / 178)


def test_tables_of_mirrors_are_split_by_seed_and_need_no_landmarks(faces):
    module = data(faces, half="first", val_fraction=0.2, test_fraction=0.2)
    module.setup("fit")
    other = data(faces, half="second", val_fraction=0.2, test_fraction=0.2)
    other.setup("fit")
    first, second = set(module.train_set.files), set(other.train_set.files)
    assert not first & second
    assert len(first | second) == 12
    assert module.val_set.files == other.val_set.files
    batch = module.on_after_batch_transfer(next(iter(module.val_dataloader())) | {"seed": 0}, 0)
    assert batch["mask"].shape == (4, 1, 32, 32)
    assert 0.02 < batch["mask"].mean() < 0.3
    assert batch["box"][0, 1] > 16  # the mouth is in the lower half


@pytest.mark.parametrize("layout", ["single", "CelebAMask-HQ"])
def test_external_masks_go_before_landmarks(faces, layout):
    mask = np.zeros((512, 512), np.uint8)
    mask[:256] = 255
    for index in range(1, 21):
        name = f"{index:06d}.png" if layout == "single" else f"0/{index:05d}_u_lip.png"
        write_image(faces / "masks" / name, mask)
    module = data(faces, masks=str(faces / "masks"))
    module.setup("fit")
    batch = module.on_after_batch_transfer(next(iter(module.val_dataloader())) | {"seed": 0}, 0)
    assert (batch["mask"][:, :, :15] == 1).all()
    assert (batch["mask"][:, :, 17:] == 0).all()
    (faces / "masks" / ("000003.png" if layout == "single" else "0/00003_u_lip.png")).unlink()
    with pytest.raises(FileNotFoundError, match=r"has neither 000003\.png"):
        read_all(module)


def test_attributes_that_say_nothing_are_refused(faces):
    table = pd.read_csv(faces / "list_attr_celeba.csv", index_col=0).assign(Smiling=1)
    table.to_csv(faces / "list_attr_celeba.csv")
    with pytest.raises(ValueError, match=r"100\.0% of 16 training images have 'Smiling'.*data\.least_share"):
        data(faces).setup("fit")
    with pytest.raises(ValueError, match="has no 'Mustach'; it has Mustache"):
        data(faces, attributes=["Mustach"]).setup("fit")
    with pytest.raises(FileNotFoundError, match="There is no folder of images"):
        data(faces / "nowhere").setup("fit")


def test_images_that_are_not_aligned_need_landmarks(faces):
    write_image(faces / "img_align_celeba" / NAMES[0], noise(np.random.default_rng(0), 100, 100))
    with pytest.raises(ValueError, match="only aligned CelebA images of 178 x 218"):
        read_all(data(faces))


def test_balanced_draws_show_rare_attributes_as_often_as_frequent_ones():
    module = ProceduralFacesDataModule(["smile"], ["mouth"], train=400, val=2, test=2, balanced=True, num_workers=0)
    module.setup("fit")
    rare = torch.arange(400) < 20
    module.train_set.attributes = rare.float()[:, None]
    module.train_attributes = module.train_set.attributes.numpy()
    shown = torch.cat([batch["attributes"] for batch in module.train_dataloader()])
    assert 0.4 < shown.mean() < 0.6


def test_mirrored_faces_keep_their_region_and_jitter_moves_it():
    options = {"train": 8, "val": 2, "test": 2, "num_workers": 0, "batch_size": 8}
    module = ProceduralFacesDataModule(
        ["smile", "moustache"], ["mouth"], flip=1.0, jitter=0.0, jitter_scale=0.0, **options
    )
    module.trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False)
    module.setup("fit")
    samples = [module.train_set[index] for index in range(8)]
    batch = {key: torch.stack([sample[key] for sample in samples]) for key in ("image", "attributes", "landmarks")}
    straight = module.on_after_batch_transfer({**batch, "seed": 1}, 0)
    module.trainer.training = True
    turned = module.on_after_batch_transfer({**batch, "seed": 1}, 0)
    assert torch.equal(turned["image"], straight["image"].flip(-1))
    assert (turned["mask"] - straight["mask"].flip(-1)).abs().sum() <= 2 * 8 * 12  # a column at the rounding of a side
    module.jitter = 8.0
    moved = module.on_after_batch_transfer({**batch, "seed": 1}, 0)
    assert not torch.equal(moved["box"], turned["box"])
