"""The ``tune:`` part of a config."""

from __future__ import annotations

import difflib
import json
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, field, fields
from importlib import import_module
from pathlib import Path
from types import UnionType
from typing import Any, Literal

import optuna
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend

from tuner.space import Parameter, parse_space

__all__ = ["TuneSettings", "open_study"]


@dataclass
class TuneSettings:
    """Settings of a study.

    Args:
        space: dotted config keys and what they may be, as for :func:`tuner.space.parse_space`.
        monitor: logged metric that is searched for.
        direction: ``minimize`` or ``maximize``.
        value: a trial counts for its ``best`` epoch or its ``last``.
        n_trials: finished trials of the study, those of earlier calls and of other machines included; null: no limit.
        hours: time after which this call starts no further trial.
        workers: trials at once on this machine.
        storage: where the study is kept: a journal file (safe for many processes, also on NFS), or the URL of a
            database (``postgresql://...``, ``sqlite:///...``). ``study/journal.log`` in the folder of the experiment by
            default.
        study_name: name in the storage; the experiment's by default.
        sampler: ``class_path`` and ``init_args`` of an Optuna sampler.
        pruner: ``class_path`` and ``init_args`` of an Optuna pruner; null: none.
        lease: seconds without a sign of life after which a trial of another machine is taken to be lost and is tried
            again; on the same machine that a process is gone is seen at once.
        preload: fork trials from a process that has imported everything, which saves seconds for each; for trials on
            one device.
    """

    space: dict[str, dict[str, Any]]
    monitor: str
    direction: Literal["minimize", "maximize"] = "minimize"
    value: Literal["best", "last"] = "best"
    n_trials: int | None = 50
    hours: float | None = None
    workers: int = 1
    storage: str | None = None
    study_name: str | None = None
    sampler: dict[str, Any] = field(default_factory=lambda: {"class_path": "tuner.LazyGPSampler"})
    pruner: dict[str, Any] | None = None
    lease: float = 120.0
    preload: bool = False

    def __post_init__(self) -> None:
        for name, allowed in (("direction", ("minimize", "maximize")), ("value", ("best", "last"))):
            if getattr(self, name) not in allowed:
                raise ValueError(f"tune.{name}={getattr(self, name)!r} must be one of {', '.join(allowed)}.")
        numbers: dict[str, type | UnionType] = {
            "n_trials": int,
            "workers": int,
            "hours": int | float,
            "lease": int | float,
        }
        for name, kind in numbers.items():
            value = getattr(self, name)
            if not isinstance(value, kind) and not (value is None and name in ("n_trials", "hours")):
                whole = "whole " if kind is int else ""
                raise ValueError(f"tune.{name}={value!r} must be a {whole}number.")
        if self.workers < 1 or self.lease <= 0:
            raise ValueError(f"tune.workers={self.workers} must be at least 1 and tune.lease={self.lease} positive.")
        if self.n_trials is None and self.hours is None:
            raise ValueError("Set tune.n_trials or tune.hours: the study would never end.")
        self.parameters: list[Parameter] = parse_space(self.space)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TuneSettings:
        """From the ``tune:`` of a config.

        Raises:
            ValueError: if a key is unknown or missing.
        """
        known = [item.name for item in fields(cls)]
        for key in values:
            if key not in known:
                close = difflib.get_close_matches(key, known, 1)
                hint = f" Did you mean {close[0]!r}?" if close else ""
                raise ValueError(f"tune has no option {key!r}.{hint} It has: {', '.join(known)}.")
        for key in ("space", "monitor"):
            if key not in values:
                example = {"space": "keys and their ranges", "monitor": "a logged metric, e.g. val/loss"}[key]
                raise ValueError(f"tune.{key} is missing: give {example}, in the tune: part of a config.")
        return cls(**values)

    def save(self, file: Path, **further: Any) -> None:
        """Write as JSON, for the workers."""
        text = json.dumps({"tune": asdict(self), **further}, indent=2)
        part = file.with_suffix(".part")
        part.write_text(text, encoding="utf-8")
        part.replace(file)


def open_study(settings: TuneSettings, folder: Path, name: str) -> optuna.Study:
    """Open the study, or begin it.

    Args:
        settings: of the study.
        folder: for its journal.
        name: of the study where the settings give none.

    Raises:
        ValueError: if sampler or pruner cannot be built, or the storage cannot be opened.
    """
    sampler = _sampler(settings)
    pruner = _built("pruner", settings.pruner, {}) if settings.pruner else optuna.pruners.NopPruner()
    try:
        return optuna.create_study(
            storage=_storage(settings.storage or str(folder / "journal.log")),
            sampler=sampler,
            pruner=pruner,
            study_name=settings.study_name or name,
            direction=settings.direction,
            load_if_exists=True,
        )
    except Exception as error:  # databases, their drivers and journals raise nearly any type
        reason = " ".join(str(error).partition("\n")[0].split()) or type(error).__name__
        raise ValueError(
            f"tune.storage={settings.storage or str(folder / 'journal.log')!r} cannot be used ({reason}). Give a "
            "journal file, or the URL of a database that is reached from here; a damaged one: restore it, or give "
            "another."
        ) from error


def _storage(place: str) -> BaseStorage:
    if "://" in place:
        if place.startswith("sqlite:///"):
            _refuse_foreign(Path(place.removeprefix("sqlite:///")))
        return RDBStorage(place)
    file = Path(place)
    file.parent.mkdir(parents=True, exist_ok=True)
    return JournalStorage(JournalFileBackend(str(file)))


def _refuse_foreign(file: Path) -> None:
    """Refuse a database of another program before Optuna adds its tables to it."""
    if not file.is_file() or not file.stat().st_size:
        return
    with closing(sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro", uri=True)) as database:
        tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if tables and "studies" not in tables:
        raise ValueError(f"it holds {min(tables)!r} of another program")


def _sampler(settings: TuneSettings) -> Any:
    known = {p.key: p.distribution for p in settings.parameters}
    ours = str(settings.sampler.get("class_path", "")).endswith("LazyGPSampler")
    return _built("sampler", settings.sampler, {"search_space": known} if ours else {})


def _built(key: str, entry: Mapping[str, Any], further: Mapping[str, Any]) -> Any:
    path = str(entry.get("class_path", ""))
    module, _, name = path.rpartition(".")
    try:
        cls = getattr(import_module(module or f"optuna.{key}s"), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"tune.{key}.class_path={path!r} is not an importable class.") from error
    try:
        return cls(**{**(entry.get("init_args") or {}), **further})
    except (TypeError, ValueError) as error:
        raise ValueError(f"tune.{key}: {error}") from error
