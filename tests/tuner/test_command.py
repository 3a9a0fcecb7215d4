"""``train.py tune``: settings, refusals before the first trial, and two real trials from end to end."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import optuna
import pandas as pd
import pytest
import yaml
from conftest import ROOT
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from test_train import wandb_records

from train import main, resolved_config
from tuner.command import tune
from tuner.plots import draw_study
from tuner.settings import TuneSettings
from tuner.space import ends, parse_space, suggest

LR = "model.init_args.optimizer.init_args.lr"
TRAINING = """
model:
  class_path: ImageClassifier
  init_args:
    backbone: small_cnn
    backbone_kwargs: {width: 4}
    optimizer: {class_path: torch.optim.SGD, init_args: {lr: 0.1, momentum: 0.9}}
data:
  class_path: DigitsDataModule
  init_args: {batch_size: 100, num_workers: 0}
trainer: {max_epochs: 1, accelerator: cpu, devices: 1, limit_train_batches: 5, enable_model_summary: false}
"""


def write(**tune_settings):
    settings = {"monitor": "val/accuracy", "direction": "maximize", "n_trials": 2, **tune_settings}
    Path("train.yaml").write_text(TRAINING)
    Path("tune.yaml").write_text(yaml.safe_dump({"tune": settings}))
    return ["-c", "train.yaml", "-c", "tune.yaml", "--experiment", "search"]


def test_space_is_parsed_with_what_depends_on_what():
    space = parse_space(
        {
            "momentum": {"type": "float", "low": 0, "high": 0.9, "when": {"kind": "sgd"}},
            "kind": {"type": "categorical", "choices": ["sgd", "adam"]},
            "width": {"type": "int", "low": 4, "high": 64, "log": True},
        }
    )
    assert [parameter.key for parameter in space] == ["kind", "width", "momentum"]
    assert space[1].distribution == IntDistribution(4, 64, log=True)
    assert space[0].distribution == CategoricalDistribution(["sgd", "adam"])
    assert ends(space) == [{"kind": "sgd", "width": 4, "momentum": 0}, {"kind": "adam", "width": 64, "momentum": 0.9}]
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    drawn = [suggest(study.ask(), space) for _ in range(20)]
    assert {values["kind"] for values in drawn} == {"sgd", "adam"}
    assert all(("momentum" in values) == (values["kind"] == "sgd") for values in drawn)
    assert parse_space({"x": {"type": "float", "low": 1e-4, "high": 1, "log": True}})[0].distribution == (
        FloatDistribution(1e-4, 1, log=True)
    )


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({}, "tune.space is empty"),
        ({"a": {"type": "real"}}, "tune.space.a needs a type"),
        ({"a": {"type": "float", "low": 0}}, "tune.space.a"),
        ({"a": {"type": "float", "low": 2, "high": 1}}, "tune.space.a"),
        ({"a": {"type": "categorical"}}, "tune.space.a lacks 'choices'"),
        ({"a": {"type": "int", "low": 0, "high": 1, "base": 2}}, "no option 'base'"),
        ({"a": {"type": "int", "low": 0, "high": 1, "when": {"b": 1}}}, "depends on b"),
    ],
)
def test_space_errors_name_the_key(space, message):
    with pytest.raises(ValueError, match=message):
        parse_space(space)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"trials": 3}, "no option 'trials'. Did you mean 'n_trials'"),
        ({"monitor": None, "direction": "up"}, "tune.direction='up'"),
        ({"n_trials": None}, "would never end"),
        ({"workers": 0}, "tune.workers=0"),
    ],
)
def test_settings_are_checked(settings, message):
    space = {"a": {"type": "float", "low": 0, "high": 1}}
    with pytest.raises(ValueError, match=message):
        TuneSettings.from_dict({"space": space, "monitor": "loss", **settings})
    with pytest.raises(ValueError, match=r"tune\.monitor is missing"):
        TuneSettings.from_dict({"space": space})


def test_unknown_keys_and_bad_ends_of_ranges_fail_before_the_first_trial(capsys):
    for space in (
        {"model.init_args.optimizer.init_args.learning_rate": {"type": "float", "low": 0.1, "high": 1}},
        {"data.init_args.batch_size": {"type": "categorical", "choices": [32, "many"]}},
    ):
        with pytest.raises(SystemExit) as stop:
            tune(write(space=space), resolved_config)
        assert stop.value.code == 2
        assert capsys.readouterr().err
    assert not list(Path().glob("runs/search/study/journal.log"))
    with pytest.raises(ValueError, match="not an importable class"):
        tune(
            write(space={LR: {"type": "float", "low": 0.01, "high": 1}}, sampler={"class_path": "nowhere.Sampler"}),
            resolved_config,
        )


def test_a_database_of_another_program_is_refused_and_left_as_it_is():
    with closing(sqlite3.connect("foreign.db")) as database, database:
        database.execute("CREATE TABLE recipes (name TEXT)")
    before = Path("foreign.db").read_bytes()
    space = {LR: {"type": "float", "low": 0.01, "high": 0.1}}
    with pytest.raises(
        ValueError, match=r"tune\.storage='sqlite:///foreign\.db'.*'recipes' of another program.*another"
    ):
        tune(write(space=space, storage="sqlite:///foreign.db"), resolved_config)
    assert Path("foreign.db").read_bytes() == before


def test_help_lists_tune_and_its_settings(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "tune" in capsys.readouterr().out
    assert tune(["--help"], resolved_config) is None
    assert "lease: seconds without a sign of life" in capsys.readouterr().out


def test_plots_have_a_panel_for_history_importance_and_each_parameter():
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    space = parse_space(
        {
            "a.lr": {"type": "float", "low": 1e-3, "high": 1, "log": True},
            "a.kind": {"type": "categorical", "choices": ["p", "q"]},
        }
    )
    for _ in range(12):
        trial = study.ask()
        values = suggest(trial, space)
        study.tell(trial, values["a.lr"])
    axes = draw_study(study, "loss").axes
    titles = [panel.get_title() for panel in axes]
    assert titles == ["history", "importance (fANOVA)", "kind", "lr"]
    assert axes[3].get_xscale() == "log"
    best_so_far = axes[0].lines[1].get_ydata()
    assert best_so_far[-1] == study.best_value
    assert max(axes[1].patches, key=lambda bar: bar.get_width()).get_y() < 0.5  # lr, the first, explains it all


@pytest.mark.slow
def test_a_study_trains_goes_on_and_leaves_a_config_for_fit(capsys, monkeypatch):
    space = {LR: {"type": "float", "low": 1e-3, "high": 0.5, "log": True}}
    arguments = [*write(space=space, preload=True), "-c", str(ROOT / "configs/logger/wandb.yaml")]
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    for name in [name for name in os.environ if name.startswith("WANDB_") and name != "WANDB_MODE"]:
        monkeypatch.delenv(name)  # what W&B left in this process would lead the trials to its own service
    for trials in (2, 3):  # the same command again goes on
        tune([*arguments, f"--tune.n_trials={trials}"], resolved_config)
        assert f"Best of {trials}: trial" in capsys.readouterr().out
    table = pd.read_csv("runs/search/study/trials.csv")
    assert (table["state"] == "COMPLETE").tolist() == [True] * 3
    for number, value in zip(table["number"], table["value"], strict=True):
        (run,) = Path(f"runs/search/trials/{number:04d}").iterdir()
        config = yaml.safe_load((run / "config.yaml").read_text())
        chosen = config["model"]["init_args"]["optimizer"]["init_args"]["lr"]
        assert chosen == pytest.approx(table.loc[table["number"] == number, f"params_{LR}"].item())
        logged = pd.read_csv(run / "csv/metrics.csv")["val/accuracy"].max()
        assert logged == pytest.approx(value, abs=1e-6)
    _wandb_has_one_group("search", runs=3)
    best = yaml.safe_load(Path("runs/search/study/best.yaml").read_text())
    row = table.loc[table["value"].idxmax()]
    assert best["model"]["init_args"]["optimizer"]["init_args"]["lr"] == pytest.approx(row[f"params_{LR}"])
    cli = main(["fit", "-c", "runs/search/study/best.yaml", "--trainer.fast_dev_run=1"])
    assert cli.trainer.global_step == 1
    assert Path("runs/search/study/study.png").stat().st_size > 1000
    other = write(space={LR: {"type": "float", "low": 1e-3, "high": 0.1, "log": True}})
    with pytest.raises(ValueError, match="give the new one another --experiment"):
        tune(other, resolved_config)


def _wandb_has_one_group(name, runs):
    files = Path("runs/search/trials").glob("*/*/wandb/offline-run-*/run-*.wandb")
    records = [record.run for file in files for record in wandb_records(file) if record.run.run_id]
    assert len({run.run_id for run in records}) == runs
    assert {run.run_group for run in records} == {name}
