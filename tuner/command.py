"""``python train.py tune``: search for good values of any keys of a config, one process for each trial."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import optuna
import yaml
from omegaconf import OmegaConf
from optuna.trial import FrozenTrial, TrialState

from tuner.config_files import read_config
from tuner.plots import draw_study
from tuner.settings import TuneSettings, open_study
from tuner.space import ends
from tuner.worker import counted

__all__ = ["HELP", "tune"]

HELP = """\
usage: train.py tune -c EXPERIMENT.yaml -c configs/tuner/....yaml [--tune.KEY VALUE] [arguments of fit]

Search for good values of any keys of a config. The tune: part of the configs says which, and how:

{settings}

Each trial is an ordinary run, runs/<experiment>/trials/<number>/. The same command again goes on with the study; on
another machine that sees the same files it joins in. At the end study/best.yaml is a config for fit."""
_CHECK_EVERY = 0.5


def tune(arguments: Sequence[str], resolve: Callable[[list[str]], str]) -> optuna.Study | None:
    """Run or go on with a study.

    Args:
        arguments: as on the command line, after ``tune``.
        resolve: gives the resolved config of ``fit`` with some arguments as YAML, or exits with a message.

    Returns:
        The study; None if only help was asked for.

    Raises:
        ValueError: if the settings are wrong.
    """
    if not arguments or {"-h", "--help"} & set(arguments):
        details = (TuneSettings.__doc__ or "").partition("Args:\n")[2].rstrip()
        print(HELP.format(settings=details))
        return None
    settings_of, fit_arguments, parts = _split(arguments)
    settings = TuneSettings.from_dict(settings_of)
    resolved = yaml.safe_load(_checked(settings, fit_arguments, parts, resolve))
    experiment = resolved["experiment"]
    folder = Path(resolved["runs"]) / experiment / "study"
    study = open_study(settings, folder, experiment)
    _refuse_another_space(study, settings, folder)
    folder.mkdir(parents=True, exist_ok=True)
    for index, (place, text) in enumerate(parts):  # kept with the study, for workers and for the record
        file = folder / f"config-{index}.yaml"
        file.write_text(text, encoding="utf-8")
        fit_arguments[place] = str(file.absolute())
    settings.save(folder / "settings.json", experiment=experiment, arguments=fit_arguments)
    try:
        _work(settings, study, folder)
    finally:
        summary = write_results(study, settings, folder, Path(resolved["runs"]) / experiment / "trials")
        print(summary, flush=True)
    return study


def write_results(study: optuna.Study, settings: TuneSettings, folder: Path, trials: Path) -> str:
    """Write ``trials.csv``, ``study.png`` and ``best.yaml`` into the folder of a study; returns what to print."""
    done = [trial for trial in counted(study) if trial.state == TrialState.COMPLETE]
    study.trials_dataframe().to_csv(folder / "trials.csv", index=False)
    if not done:
        return f"No trial has finished yet. See {trials}/ and {folder}/."
    best = study.best_trial
    draw_study(study, settings.monitor).savefig(folder / "study.png", dpi=130)
    number = best.user_attrs.get("tune:retry_of", best.number)
    config = max(trials.glob(f"{number:04d}/*/config*.yaml"), key=lambda path: path.stat().st_mtime_ns, default=None)
    lines = [f"Best of {len(done)}: trial {best.number}, {settings.monitor} {best.value:.6g}"]
    lines += [f"  {key}: {value}" for key, value in best.params.items()]
    if config is not None:
        content = yaml.safe_load(config.read_text(encoding="utf-8"))
        content["experiment"] = content["experiment"].rpartition("/trials/")[0] + "/best"
        content.pop("ckpt_path", None)
        text = f"# Best of {len(done)} trials of {study.study_name}: {settings.monitor} {best.value:.6g}.\n"
        (folder / "best.yaml").write_text(text + yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
        lines.append(f"Train with it: python train.py fit -c {folder / 'best.yaml'}")
    return "\n".join([*lines, f"Written: {folder / 'trials.csv'}, {folder / 'study.png'}"])


def _split(arguments: Sequence[str]) -> tuple[dict[str, Any], list[str], list[tuple[int, str]]]:
    """The ``tune`` part of configs and command line, arguments for ``fit``, and configs to be rewritten without it.

    The third has, for each config with a ``tune`` part, its place among the arguments and the text of its other parts.
    """
    settings: Any = OmegaConf.create({})
    rest: list[str] = []
    parts: list[tuple[int, str]] = []
    overrides: list[str] = []
    items = iter(arguments)
    for item in items:
        name, equals, value = item.partition("=")
        if name.startswith("--tune."):
            overrides.append(f"{name.removeprefix('--tune.')}={value if equals else next(items, '')}")
            continue
        rest.append(item if name not in ("-c", "--config") else "--config")
        if name not in ("-c", "--config"):
            continue
        file = Path(value if equals else next(items, ""))
        read_config(file)
        rest.append(str(file.absolute()))
        content: Any = OmegaConf.load(file)
        if "tune" in content:
            settings = OmegaConf.merge(settings, content.pop("tune"))
            parts.append((len(rest) - 1, OmegaConf.to_yaml(content) if content else "{}\n"))
    for override in overrides:  # keys of the space have dots, so that only the first word is a key here
        key, _, value = override.partition("=")
        head, _, inner = key.partition(".")
        parsed = OmegaConf.create(f"value: {value}").value
        settings[head] = OmegaConf.merge(settings.get(head) or {}, _nested(inner, parsed)) if inner else parsed
    return OmegaConf.to_container(settings, resolve=True), rest, parts  # type: ignore[return-value]


def _nested(key: str, value: Any) -> dict[str, Any]:
    head, _, inner = key.partition(".")
    return {head: _nested(inner, value) if inner else value}


def _checked(
    settings: TuneSettings, arguments: list[str], parts: list[tuple[int, str]], resolve: Callable[[list[str]], str]
) -> str:
    """Resolved config; exits if a key of the space or one end of its range is refused."""
    with tempfile.TemporaryDirectory() as folder:
        trial = list(arguments)
        for index, (place, text) in enumerate(parts):
            trial[place] = f"{folder}/{index}.yaml"
            Path(trial[place]).write_text(text, encoding="utf-8")
        for values in ends(settings.parameters):
            given = [
                f"--{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in values.items()
            ]
            resolve([*trial, *given])
        return resolve(trial)


def _refuse_another_space(study: optuna.Study, settings: TuneSettings, folder: Path) -> None:
    """A study that was begun with other keys, ranges or aim is another study."""
    if study.direction.name.lower() != settings.direction:
        raise ValueError(
            f"tune.direction={settings.direction!r}, but study {study.study_name!r} was begun to "
            f"{study.direction.name.lower()}: give the new one another --experiment or tune.study_name."
        )
    for trial in study.get_trials(deepcopy=False):
        known = {p.key: p.distribution for p in settings.parameters}
        for key, distribution in trial.distributions.items():
            if known.get(key) != distribution:
                raise ValueError(
                    f"tune.space.{key} is {known.get(key)} now and was {distribution} when the study in {folder} was "
                    "begun: give the new one another --experiment, or remove the folder."
                )


def _work(settings: TuneSettings, study: optuna.Study, folder: Path) -> None:
    """Start the workers, print finished trials, and pass interruptions on."""
    command = [sys.executable, "-m", "tuner.worker", str(folder / "settings.json")]
    root = str(Path(__file__).resolve().parent.parent)
    paths = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), root]))
    workers = [
        subprocess.Popen(command, env={**os.environ, "PYTHONPATH": paths}, start_new_session=True)
        for _ in range(settings.workers)
    ]
    shown = {trial.number for trial in counted(study)}
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    print(f"{'trial':>6} {'state':9} {settings.monitor:>14} {'best':>10} {'time':>8}", flush=True)
    try:
        while any(worker.poll() is None for worker in workers):
            time.sleep(_CHECK_EVERY)
            _show(study, shown)
        _show(study, shown)
    except KeyboardInterrupt:
        print("Interrupted: running trials are queued again; the same command goes on.", flush=True)
        raise
    finally:
        signal.signal(signal.SIGTERM, previous)
        for worker in workers:
            if worker.poll() is None:
                worker.send_signal(signal.SIGINT)
        for worker in workers:
            worker.wait()
    if all(worker.returncode for worker in workers):
        raise SystemExit(workers[0].returncode)


def _show(study: optuna.Study, shown: set[int]) -> None:
    for trial in counted(study):
        if trial.number not in shown:
            shown.add(trial.number)
            print(_line(study, trial), flush=True)


def _line(study: optuna.Study, trial: FrozenTrial) -> str:
    done = [t for t in counted(study) if t.state == TrialState.COMPLETE]
    best = f"{study.best_value:.5g}" if done else ""
    value = f"{trial.values[0]:.5g}" if trial.values else ""
    duration = f"{trial.duration.total_seconds():.1f} s" if trial.duration else ""
    parameters = "  ".join(
        f"{key.rpartition('.')[2]}={value:.4g}" if isinstance(value, float) else f"{key.rpartition('.')[2]}={value}"
        for key, value in trial.params.items()
    )
    error = trial.user_attrs.get("error", "")
    return f"{trial.number:>6} {trial.state.name.lower():9} {value:>14} {best:>10} {duration:>8}  {parameters}  {error}"
