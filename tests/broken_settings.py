"""Broken configs, checkpoints, weights and studies: the third part of the corpus."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import optuna
import torch
import yaml
from broken_inputs import DETECTOR, BrokenInput, User
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend


def _text(user: User, content: bytes | str, name: str = "broken.yaml") -> list[str]:
    return user.fit("-c", user.file(name, content))


def _config(name: str, content: bytes | str, *says: str) -> BrokenInput:
    return BrokenInput(f"config: {name}", partial(_text, content=content), says)


def _arguments(name: str, arguments: list[str], *says: str) -> BrokenInput:
    return BrokenInput(f"arguments: {name}", lambda user: user.fit(*arguments), says)


def _directory(user: User) -> list[str]:
    (user.folder / "folder.yaml").mkdir()
    return user.fit("-c", "folder.yaml")


def _two_models(user: User) -> list[str]:
    model = {"class_path": "SpectrumDetector", "init_args": DETECTOR["init_args"]}
    return user.fit(config=user.config("two.yaml", model))


_DATA = "data: {init_args: {%s}}\n"
_MODEL = "model: {init_args: {%s}}\n"
OF_CONFIGS = [
    _config("unknown key", "trainr: {max_epochs: 2}\n", "'trainr' is no option", "Did you mean 'trainer'"),
    _config("unknown key of the trainer", "trainer: {max_epoch: 2}\n", "max_epoch", "Did you mean 'max_epochs'"),
    _config("unknown key of the model", _MODEL % "bakbone: x", "no option 'bakbone'", "Did you mean 'backbone'"),
    _config("wrong type", _DATA % "image_size: [big]", "data.image_size: expected int", "['big']"),
    _config("null for a number", _DATA % "batch_size: null", "data.batch_size=None", "at least 1"),
    _config("text for a number", "trainer: {max_epochs: many}\n", "trainer.max_epochs", "expected int", "'many'"),
    _config("invalid YAML", "model: {init_args: [\n", "broken.yaml", "line 2", "no valid YAML"),
    _config("tabs", "model:\n\tinit_args: {}\n", "broken.yaml", "line 2", "spaces"),
    _config("not UTF-8", b"experiment: m\xfcll\n", "broken.yaml", "UTF-8"),
    _config("a list", "- model\n- data\n", "broken.yaml", "keys such as model, data and trainer"),
    _config("interpolation of nothing", _DATA % "root: '${nothing.at_all}'", "nothing.at_all", "or the value itself"),
    _config(
        "unset variable",
        _DATA % "root: '${oc.env:NOT_SET_ANYWHERE}'",
        "data.init_args.root",
        "NOT_SET_ANYWHERE",
        "oc.env:NAME,default",
    ),
    _config(
        "circle",
        "experiment: '${runs}'\nruns: '${experiment}'\n",
        "experiment",
        "Recursive interpolation",
        "or the value itself",
    ),
    _config("unknown module", "model: {class_path: mine.Net}\n", "'mine.Net'", "my_package.my_file.MyClass"),
    _config("class of another kind", "model: {class_path: torch.nn.Linear}\n", "torch.nn.Linear", "LightningModule"),
    BrokenInput(
        "config: keys of another model", _two_models, ("SpectrumDetector has no option 'backbone", "It accepts")
    ),
    BrokenInput("config: a folder", _directory, ("folder.yaml", "give a YAML file")),
    _arguments("no such config", ["-c", "gone.yaml"], "gone.yaml", "give a YAML file"),
    _arguments("unknown option", ["--modle.backbone=x"], "'modle' is no option", "Did you mean 'model'"),
    _arguments("value without key", ["small_cnn"], "small_cnn", "--KEY VALUE"),
    _arguments("negative batch", ["--data.batch_size=-4"], "data.batch_size=-4", "at least 1"),
    _arguments("negative workers", ["--data.num_workers=-1"], "data.num_workers=-1", "at least 0"),
    _arguments("no epochs", ["--trainer.max_epochs=-7"], "max_epochs", "-7"),
    _arguments("no such device", ["--trainer.accelerator=abacus"], "abacus", "cpu"),
    BrokenInput("arguments: subcommand", lambda user: ["fitt", "-c", "good.yaml"], ("fitt", "fit")),
]


class Malice:
    """Pickled, it creates a file where it is loaded."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, ("executed",))


def _saved(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def _checkpoint(user: User, name: str = "last") -> Path:
    assert user.run is not None
    return user.run / "checkpoints" / f"{name}.ckpt"


def _changed(user: User, change: Callable[[dict[str, Any]], None]) -> bytes:
    content = torch.load(_checkpoint(user), weights_only=True)
    change(content)
    return _saved(content)


CHECKPOINTS: dict[str, tuple[Callable[[User], bytes], tuple[str, ...]]] = {
    "truncated": (lambda user: _checkpoint(user).read_bytes()[:-5000], ("damaged or no checkpoint", "another file")),
    "empty": (lambda user: b"", ("damaged or no checkpoint", "another file")),
    "text": (lambda user: b"epoch 3, accuracy 0.9\n", ("damaged or no checkpoint", "another file")),
    "code": (lambda user: _saved({"state_dict": Malice()}), ("no checkpoint of plain tensors", "another file")),
    "weights alone": (
        lambda user: _saved(torch.load(_checkpoint(user), weights_only=True)["state_dict"]),
        ("no checkpoint of a run", "model.weights"),
    ),
    "missing keys": (
        lambda user: _changed(user, lambda content: content["state_dict"].popitem()),
        ("does not fit", "ImageDetector: Missing key(s)", "-c config.yaml"),
    ),
    "another module": (
        lambda user: _changed(user, lambda content: content.update(state_dict={"critic.weight": torch.zeros(2)})),
        ("does not fit", "ImageDetector: Missing key(s)", "-c config.yaml"),
    ),
}
"""Makers of checkpoints, and what is said about them."""


def _loaded(user: User, command: str, name: str) -> list[str]:
    file = user.file("broken.ckpt", CHECKPOINTS[name][0](user))
    root = ["--data.predict_root=images"] if command == "predict" else []
    return [command, "-c", "good.yaml", f"--ckpt_path={file}", *root]


def _own_run(user: User, *arguments: str, damaged: str = "last") -> list[str]:
    """Ask for a checkpoint of the experiment's latest run, which is damaged."""
    assert user.run is not None
    shutil.copytree(user.run, user.folder / "runs/mine/20200101-000000")
    folder = user.folder / "runs/mine/20200101-000000/checkpoints"
    (folder / f"{damaged}.ckpt").write_bytes(b"\x80")
    return [*arguments, "-c", "good.yaml", "--experiment=mine"]


def _without_best(user: User) -> list[str]:
    command = _own_run(user, "test")
    (user.folder / "runs/mine/20200101-000000/checkpoints/best.ckpt").unlink()
    shutil.copy(_checkpoint(user), user.folder / "runs/mine/20200101-000000/checkpoints/last.ckpt")
    return command


_WHICH = {"truncated": "predict", "code": "fit", "text": "landscape"}
OF_CHECKPOINTS = [
    *(
        BrokenInput(
            f"checkpoint: {name}",
            partial(_loaded, command=_WHICH.get(name, "test"), name=name),
            ("broken.ckpt", *says),
        )
        for name, (_, says) in CHECKPOINTS.items()
    ),
    BrokenInput(
        "checkpoint: folder",
        lambda user: ["test", "-c", "good.yaml", "--ckpt_path=images"],
        ("ckpt_path: 'images'", "last, best"),
    ),
    BrokenInput(
        "checkpoint: none",
        lambda user: ["test", "-c", "good.yaml", "--experiment=none"],
        ("no runs/none/*/checkpoints/best.ckpt", "Run `fit` for experiment 'none' first"),
    ),
    BrokenInput("checkpoint: no best but a last", _without_best, ("no best checkpoint", "pass --ckpt_path last")),
    BrokenInput(
        "checkpoint: damaged last of a run that goes on",
        lambda user: [*_own_run(user, "fit"), "--ckpt_path=last"],
        ("last.ckpt", "another file"),
    ),
    BrokenInput(
        "checkpoint: damaged best of a run",
        lambda user: _own_run(user, "test", damaged="best"),
        ("best.ckpt", "another file"),
    ),
]


def _weights(user: User, content: Callable[[User], bytes], name: str = "net.ckpt") -> list[str]:
    return user.fit(f"--model.weights={user.file(name, content(user))}")


_WRONG = "holds more than tensors, or is damaged"
OF_WEIGHTS = [
    *(
        BrokenInput(
            f"weights: {name}", partial(_weights, content=content, name=file), (f"model.weights='{file}'", *says)
        )
        for name, file, content, says in (
            ("truncated", "net.ckpt", CHECKPOINTS["truncated"][0], (_WRONG, "another file")),
            ("code", "net.ckpt", CHECKPOINTS["code"][0], (_WRONG, "another file")),
            ("no safetensors", "net.safetensors", CHECKPOINTS["text"][0], (_WRONG, "another file")),
            ("of another net", "net.ckpt", CHECKPOINTS["another module"][0], ("does not fit", "Check model.backbone")),
        )
    ),
]

LR = "model.init_args.optimizer.init_args.lr"
ONE_VALUE = {LR: {"type": "categorical", "choices": [0.01]}}  # each further value costs another look at the config
SPACE = {LR: {"type": "float", "low": 0.001, "high": 0.1}}


def _tune(user: User, *arguments: str, **settings: object) -> list[str]:
    wanted = {"space": SPACE, "monitor": "val/loss", "n_trials": 1, **settings}
    wanted = {key: value for key, value in wanted.items() if value is not None}
    adam = {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.01}}
    model = {"class_path": "ImageDetector", "init_args": {**DETECTOR["init_args"], "optimizer": adam}}
    file = user.file("tune.yaml", yaml.safe_dump({"tune": wanted}))
    return ["tune", "-c", user.config("train.yaml", model), "-c", file, "--experiment=search", *arguments]


def _study(user: User, name: str, low: float = 0.5, direction: str = "minimize") -> str:
    """A journal with one trial of another space."""
    study = optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(user.folder / name))), study_name="search", direction=direction
    )
    trial = study.ask()
    trial.suggest_float(LR, low, 1.0)
    study.tell(trial, 0.3)
    return name


def _settings(name: str, *says: str, **settings: object) -> BrokenInput:
    return BrokenInput(f"study: {name}", lambda user: _tune(user, **settings), says)


def _storage(name: str, make: Callable[[User], str], *says: str) -> BrokenInput:
    return BrokenInput(f"storage: {name}", lambda user: _tune(user, storage=make(user), space=ONE_VALUE), says)


OF_STUDIES = [
    _settings("range reversed", f"tune.space.{LR}", "low", space={LR: {"type": "float", "low": 0.1, "high": 0.01}}),
    _settings("logarithm of zero", f"tune.space.{LR}", "log", space={LR: {**SPACE[LR], "low": 0, "log": True}}),
    _settings("unknown key", "'lrr'", "Did you mean 'lr'", space={f"{LR}r": SPACE[LR]}),
    _settings("word in a range", f"tune.space.{LR}", "'small'", "number", space={LR: {**SPACE[LR], "low": "small"}}),
    _settings(
        "choice that is refused",
        "data.batch_size: expected int",
        "'many'",
        space={"data.init_args.batch_size": {"type": "categorical", "choices": [4, "many"]}},
    ),
    _settings("space is a list", "tune.space", "dotted keys", space=[LR]),
    _settings("no monitor", "tune.monitor is missing", "val/loss", monitor=None),
    _settings("words for a number", "tune.n_trials='ten'", "number", n_trials="ten"),
    _settings(
        "option of a sampler",
        "tune.sampler",
        "sed",
        sampler={"class_path": "tuner.LazyGPSampler", "init_args": {"sed": 1}},
    ),
    BrokenInput("study: no config", lambda user: ["tune", "-c", "gone.yaml"], ("--config", "no file 'gone.yaml'")),
    BrokenInput(
        "study: invalid YAML",
        lambda user: [*_tune(user), "-c", user.file("bad.yaml", "tune: {space: [\n")],
        ("bad.yaml", "no valid YAML"),
    ),
    BrokenInput("study: no tune part", lambda user: ["tune", "-c", "good.yaml"], ("tune.space is missing", "tune:")),
    _storage("unreachable", lambda user: "postgresql://nobody@127.0.0.1:1/none", "tune.storage='postgresql", "journal"),
    _storage("unknown kind", lambda user: "carrier://pigeon", "tune.storage='carrier://pigeon'", "journal"),
    _storage("no database", lambda user: f"sqlite:///{user.file('study.db', b'words' * 99)}", "study.db", "journal"),
    _storage("no journal", lambda user: user.file("study.log", "words\n" * 9), "tune.storage='study.log'", "another"),
    _storage("folder", lambda user: "images", "tune.storage='images'", "Is a directory", "another"),
    _storage("another space", lambda user: _study(user, "s.log"), f"tune.space.{LR}", "another --experiment"),
    _storage("another direction", lambda user: _study(user, "s.log", 0.001, "maximize"), "tune.direction", "maximize"),
]
