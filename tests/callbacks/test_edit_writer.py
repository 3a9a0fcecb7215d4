"""The story of a user with ten pictures of a colour and a folder of faces, and what EditWriter writes."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ROOT
from lightning.pytorch import Trainer
from PIL import Image
from processes import run_two

from callbacks import EditWriter, PredictionWriter
from datamodules import FewShotAttributeDataModule
from datamodules.synthetic.face_parameters import HAIR_COLOURS, draw_faces
from datamodules.synthetic.faces import render_faces
from lightning_modules import FewShotTranslationGAN, ImageClassifier
from train import main

CPU = ["--trainer.accelerator=cpu", "--trainer.devices=1"]


def write_faces(folder, count, colours, seed, size=(40, 30)):
    folder.mkdir()
    faces = draw_faces(count, torch.Generator().manual_seed(seed), colours)
    for index, pixels in enumerate((render_faces(faces, 24) * 255).round().byte()):
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).resize(size).save(folder / f"{index:02d}.png")


def test_ten_pictures_and_a_folder_of_faces(tmp_path, capsys):
    """Two commands: train, and translate."""
    write_faces(tmp_path / "ten_pictures", 10, ("red",), 0)
    write_faces(tmp_path / "faces", 12, tuple(HAIR_COLOURS)[:8], 1)
    quick = ["--model.width=8", "--model.inner_steps=2", "--data.train_tasks=2", "--data.test_draws=1"]
    quick += ["--model.adaptation_steps=[0, 5]", "--data.queries=4", "--data.train=400", "--runs", str(tmp_path)]
    config = ["-c", str(ROOT / "configs/experiments/few_shot_procedural.yaml"), *CPU, *quick]
    main(["fit", *config, "--trainer.enable_progress_bar=false"])
    (run,) = (tmp_path / "few_shot_procedural").iterdir()
    before = torch.load(run / "checkpoints/best.ckpt", weights_only=True)["state_dict"]
    capsys.readouterr()

    shots, faces = (f"--data.{name}={tmp_path / folder}" for name, folder in STORY)
    cli = main(
        [
            *("predict", "-c", str(run / "config.yaml"), "--data=FewShotAttributeDataModule", shots, faces, *CPU),
            *("--data.image_size=16", "--data.batch_size=5", "--data.num_workers=0", "--runs", str(tmp_path)),
        ]
    )
    out = cli.run_directory
    files = sorted((out / "edits").iterdir())
    assert [file.name for file in files] == [f"{index:02d}.png" for index in range(12)]
    first, source = (np.asarray(Image.open(path)) for path in (files[0], tmp_path / "faces/00.png"))
    assert first.shape == (16, 16, 3)
    shrunk = np.asarray(Image.fromarray(source).crop((5, 0, 35, 30)).resize((16, 16), Image.Resampling.BICUBIC))
    difference = np.abs(first.astype(float) - shrunk).mean()
    assert 0.5 < difference < 80  # that face, changed
    sheet = np.asarray(Image.open(out / "edits.png"))
    assert sheet.shape[0] > 300
    assert sheet.shape[1] > 300
    assert all(torch.equal(value, before[name]) for name, value in cli.model.state_dict().items())


def translate(rank, port, folder):
    """Translate a folder in one of two processes."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    os.environ |= {"MASTER_PORT": str(port), "LOCAL_WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "test"}
    torch.set_num_threads(1)
    folders = {name: str(folder / place) for name, place in STORY}
    data = FewShotAttributeDataModule(image_size=16, batch_size=2, num_workers=0, **folders)
    tiny = {"width": 4, "blocks": 1, "critic_width": 4, "adaptation_steps": [1]}
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    writers = [EditWriter(), PredictionWriter()]
    trainer = Trainer(accelerator="cpu", devices=2, strategy="ddp", default_root_dir=folder, callbacks=writers, **quiet)
    trainer.predict(FewShotTranslationGAN(**tiny), datamodule=data, return_predictions=False)


@pytest.mark.slow
def test_two_processes_write_each_image_once(tmp_path):
    write_faces(tmp_path / "ten_pictures", 3, ("red",), 0)
    write_faces(tmp_path / "faces", 6, tuple(HAIR_COLOURS)[:8], 1)
    write_faces(tmp_path / "faces/more", 1, ("teal",), 2)  # a second 00.png
    assert run_two(translate, tmp_path) == [0, 0]
    table = pd.read_csv(tmp_path / "edits.csv")
    names = [f"{index:02d}.png" for index in range(6)]
    assert sorted(Path(path).name for path in table["path"]) == sorted(["00.png", *names])
    assert sorted(table["edit"]) == sorted(["00-2.png", *names])
    assert sorted(path.name for path in (tmp_path / "edits").iterdir()) == sorted(table["edit"])
    assert (tmp_path / "edits.png").is_file()
    assert not (tmp_path / "predictions.csv").exists()  # nothing was judged


STORY = (("shots_root", "ten_pictures"), ("predict_root", "faces"))


def test_other_modules_are_refused_and_numbers_checked():
    with pytest.raises(TypeError, match="EditWriter needs ImageClassifier"):
        EditWriter().on_predict_batch_end(
            Trainer(accelerator="cpu", logger=False), ImageClassifier("small_cnn", num_classes=2), None, {}, 0
        )
    with pytest.raises(ValueError, match="columns=0 at least 1"):
        EditWriter(columns=0)
