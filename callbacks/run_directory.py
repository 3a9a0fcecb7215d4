"""The directory of a run: ``runs/<experiment>/<time>/`` with config, logs, checkpoints, tables and pictures."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import Namespace
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, SaveConfigCallback
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only

__all__ = ["SaveRunConfig", "find_checkpoint", "new_run_directory", "run_directory", "unused_path"]

_INHERITED = "TRUELIGHT_RUN_DIRECTORY"


def new_run_directory(root: Path, suffix: str = "") -> Path:
    """Create a fresh directory ``root/<YYYYMMDD-HHMMSS><suffix>``.

    Processes that a launcher starts for the other ranks inherit the choice of rank zero through the environment;
    only rank zero creates anything.

    Args:
        root: folder of the experiment.
        suffix: appended to the time, e.g. ``"-test"``.

    Returns:
        The directory's path, the same on all ranks of one machine.
    """
    if os.environ.get("LOCAL_RANK", "0") != "0" and _INHERITED in os.environ:
        return Path(os.environ[_INHERITED])
    stamp = time.strftime("%Y%m%d-%H%M%S") + suffix
    directory, count = root / stamp, 1
    while getattr(rank_zero_only, "rank", None) in (None, 0):
        try:
            directory.mkdir(parents=True)
            break
        except FileExistsError:  # another run of this experiment started in the same second
            count += 1
            directory = root / f"{stamp}-{count}"
    os.environ[_INHERITED] = str(directory.absolute())
    return directory


def find_checkpoint(root: Path, name: str) -> Path | None:
    """Most recently written ``root/*/checkpoints/<name>``, or None."""
    return max(root.glob(f"*/checkpoints/{name}"), key=lambda path: path.stat().st_mtime_ns, default=None)


def run_directory(trainer: Trainer) -> Path:
    """Directory of the current run, the same on every rank (a collective call)."""
    return Path(trainer.strategy.broadcast(trainer.default_root_dir))


def unused_path(path: Path) -> Path:
    """Return ``path``, or ``path`` with ``-2``, ``-3``, ... before its suffix if that exists already."""
    candidate, count = path, 1
    while candidate.exists():
        count += 1
        candidate = path.with_name(f"{path.stem}-{count}{path.suffix}")
    return candidate


class SaveRunConfig(SaveConfigCallback):
    """Write the resolved config into the run's directory, once and never over another, and send it to the loggers.

    Args:
        parser: parser of the subcommand.
        config: the parsed config as the run uses it.
        record: the config to write: that of the user, before the run's own directories were filled in, so that the
            file can be used for another run.
        kwargs: as for Lightning's callback.
    """

    def __init__(
        self, parser: LightningArgumentParser, config: Namespace, record: Namespace | None = None, **kwargs: Any
    ) -> None:
        super().__init__(parser, record if record is not None else config, **kwargs)

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write ``config.yaml`` (``config-2.yaml`` for a resumed run); called on rank zero only."""
        text = self.parser.dump(self.config, skip_link_targets=True, skip_unset=False, format="yaml")
        path = unused_path(Path(trainer.default_root_dir) / self.config_filename)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        content = yaml.safe_load(text)
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.experiment.config.update(content, allow_val_change=True)
            else:
                logger.log_hyperparams({"config": content})
