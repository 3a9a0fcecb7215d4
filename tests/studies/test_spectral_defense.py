"""The command: attack, table, adaptive attack and picture on a small victim; the configs of the paper."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from adversarial_data import save_victim, trained_victim, write_cifar, write_pairs, write_spectral_defense
from conftest import ROOT
from PIL import Image

from datamodules.adversarial_pairs import PairFolder, load_reference
from studies import spectral_defense
from train import main


@pytest.fixture(scope="module")
def victim():
    return trained_victim()


@pytest.fixture
def study(tmp_path, victim):
    """Arguments that name a trained victim, its data and a folder for pairs."""
    save_victim(victim, tmp_path / "victim.safetensors")
    return [
        "--model=ImageClassifier",
        "--model.backbone=cifar_resnet8",
        "--model.backbone_kwargs={width: 8}",
        f"--model.weights={tmp_path / 'victim.safetensors'}",
        "--data=Cifar10DataModule",
        f"--data.file={write_cifar(tmp_path / 'cifar.npz')}",
        "--data.batch_size=20",
        "--data.num_workers=0",
        "--trainer.accelerator=cpu",
        "--pairs_in",
        str(tmp_path / "pairs"),
    ]


def test_attacks_go_on_where_they_were_interrupted(study, victim, tmp_path):
    arguments = ["attack", *study, "--attacks", "pgd,fgsm@0.1", "--pairs", "1000", "--reference", "50"]
    table = spectral_defense.run(arguments).set_index("attack")
    assert 0 < table.loc["pgd", "success"] <= table.loc["pgd", "attacked"] <= 60
    assert table.loc["fgsm@0.1", "linf"] == pytest.approx(0.1, abs=1e-3)
    pairs, _ = PairFolder(tmp_path / "pairs" / "pgd").read()
    assert (pairs.prediction != pairs.label).all()
    assert np.abs(pairs.attacked - pairs.image).max() <= 0.03 + 1e-6
    with torch.no_grad():
        assert (victim(torch.from_numpy(pairs.image)).argmax(1).numpy() == pairs.label).all()
        assert (victim(torch.from_numpy(pairs.attacked)).argmax(1).numpy() == pairs.prediction).all()
    assert len(load_reference(tmp_path / "pairs")[1]) == 50
    files = PairFolder(tmp_path / "pairs" / "pgd").files
    kept = files[0].stat().st_mtime_ns
    files[1].unlink()
    spectral_defense.run(arguments)
    assert files[0].stat().st_mtime_ns == kept, "what was there is not attacked again"
    again, _ = PairFolder(tmp_path / "pairs" / "pgd").read()
    assert np.array_equal(again.attacked, pairs.attacked)
    with pytest.raises(ValueError, match="steps=40, not 3"):
        spectral_defense.run([*arguments, "--steps", "3"])


def test_fewer_pairs_are_attacked_if_fewer_are_wanted(study, tmp_path):
    table = spectral_defense.run(["attack", *study, "--attacks", "fgsm@0.2", "--pairs", "5", "--reference", "10"])
    assert table["attacked"].item() <= 20, "one batch is enough"


def test_table_has_all_features_attacks_and_splits(study, tmp_path, capsys):
    write_pairs(tmp_path / "pairs", count=80)
    write_pairs(tmp_path / "elsewhere", count=50)
    table = spectral_defense.run(
        [
            *("table", *study, "--attacks", "fgsm,bim", "--seeds", "2", "--also", str(tmp_path / "elsewhere")),
            *("--features", "input_mfs,input_pfs,layer_mfs,layer_pfs,lid,lid_minibatch,mahalanobis"),
            *("--detector", "{neighbours: 5, layers: [layer3.0]}"),
        ]
    )
    assert len(table) == 7 * 2 * 2 * 4, "features, splits, attacks trained and tested on"
    assert set(table["tested_on"]) == {"fgsm", "bim", "elsewhere/fgsm", "elsewhere/bim"}
    rates = table[["auroc", "accuracy", "tpr", "tnr"]]
    assert ((rates >= 0) & (rates <= 1)).all().all()
    found = table[(table.features == "input_mfs") & (table.trained_on == table.tested_on)]
    assert (found["auroc"] > 0.99).all()
    (written,) = tmp_path.glob("runs/*/*/table.csv")
    pd.testing.assert_frame_equal(pd.read_csv(written), table.reset_index(drop=True), check_dtype=False)
    assert Image.open(written.with_name("transfer.png")).width > 300
    assert "+-" in capsys.readouterr().out


def test_table_of_another_victim_uses_its_own_features(study, tmp_path):
    write_pairs(tmp_path / "pairs", count=80)
    write_pairs(tmp_path / "theirs", count=50)
    (tmp_path / "other.yaml").write_text(
        f"""model:
  class_path: ImageClassifier
  init_args: {{backbone: cifar_resnet8, backbone_kwargs: {{width: 8}}}}
data:
  class_path: Cifar10DataModule
  init_args: {{file: {tmp_path / "cifar.npz"}, num_workers: 0}}
"""
    )
    command = ["table", *study, "--attacks", "fgsm", "--seeds", "1", "--features", "input_mfs,layer_mfs"]
    own = spectral_defense.run([*command, "--also", str(tmp_path / "theirs")]).set_index(["features", "tested_on"])
    other = spectral_defense.run([*command, "--other", str(tmp_path / "other.yaml"), str(tmp_path / "theirs")])
    other = other.set_index(["features", "tested_on"])
    for features, same in (("input_mfs", True), ("layer_mfs", False)):
        values = [table.loc[(features, "theirs/fgsm"), ["auroc", "tpr", "tnr"]].tolist() for table in (own, other)]
        assert (values[0] == values[1]) == same


def test_informed_attacker_gets_past_the_detector(study, tmp_path):
    write_pairs(tmp_path / "pairs", ("pgd",), count=80)
    table = spectral_defense.run(
        [
            *("adaptive", *study, "--features", "input_mfs", "--seeds", "1", "--images", "8", "--steps", "15"),
            *("--weights", "0,1,100", "--epsilon", "0.06"),
        ]
    ).set_index("weight")
    assert table.loc[100.0, "evaded"] >= table.loc[0.0, "evaded"]
    best = table[table.index.isna()]["success"].item()
    assert best >= table["success"].max() - 1e-9
    shares = table[["fooled", "evaded", "success"]].loc[[0.0, 1.0, 100.0]]
    assert (shares["success"] <= shares[["fooled", "evaded"]].min(axis=1)).all()


def test_picture_shows_each_attack(study, tmp_path):
    write_pairs(tmp_path / "pairs", count=80)
    table = spectral_defense.run(["picture", *study, "--attacks", "fgsm,bim", "--features", "input_mfs"])
    assert (table["attacked_score"] > table["clean_score"]).all()
    (drawn,) = tmp_path.glob("runs/*/*/attacks.png")
    assert Image.open(drawn).height > 400
    with pytest.raises(ValueError, match="--example 99: fgsm has"):
        spectral_defense.run(["picture", *study, "--attacks", "fgsm", "--features", "input_mfs", "--example", "99"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["table", "--attacks", "jsma"], "'jsma' is not one of"),
        (["table", "--features", "mfs"], "mfs: known are"),
        (["table", "--detector", "rbf"], "is no mapping"),
    ],
)
def test_options_that_make_no_sense_are_refused(study, capsys, arguments, message):
    with pytest.raises(SystemExit):
        spectral_defense.run([*arguments, *study])
    assert message in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore:Found .* in eval mode")
@pytest.mark.parametrize("name", ["detector_cifar10", "detector_cifar100_minimal_norm"])
def test_detectors_of_the_paper_step_at_full_size(name, tmp_path, monkeypatch):
    monkeypatch.setenv("DATA_ROOT", str(write_spectral_defense(tmp_path / "data")))
    cli = main(
        [
            *("fit", "-c", str(ROOT / "configs" / "papers" / "spectral_defense" / f"{name}.yaml")),
            *("--trainer.accelerator=cpu", "--trainer.fast_dev_run=1", "--data.batch_size=16", "--data.num_workers=0"),
        ]
    )
    assert cli.trainer.global_step == 1
    width = {"detector_cifar10": 77824, "detector_cifar100_minimal_norm": 2048}[name]
    assert cli.model.backbone.rows.shape[1] == width
    assert torch.isfinite(cli.trainer.callback_metrics["train/loss"])


@pytest.mark.parametrize(
    ("name", "parameters"), [("victim_vgg16_cifar10", 14_728_266), ("victim_vgg16_cifar100", 34_015_396)]
)
def test_victims_of_the_paper_step_at_full_size(name, parameters, tmp_path):
    config = ROOT / "configs" / "papers" / "spectral_defense" / f"{name}.yaml"
    file = write_cifar(tmp_path / "cifar.npz", 20)
    cli = main(
        [
            *("fit", "-c", str(config), "--trainer.accelerator=cpu", "--trainer.fast_dev_run=1"),
            *(f"--data.file={file}", "--data.batch_size=4", "--data.num_workers=0"),
        ]
    )
    assert cli.trainer.global_step == 1
    assert torch.isfinite(cli.trainer.callback_metrics["train/loss"])
    assert sum(p.numel() for p in cli.model.backbone.parameters()) == parameters
