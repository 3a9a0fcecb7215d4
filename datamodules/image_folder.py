"""Images of a folder that a user names, without labels: for ``predict``."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pandas as pd
from lightning.pytorch import Trainer

from datamodules.manifest import ManifestError, add_scan
from datamodules.scan import IMAGE_SUFFIXES, list_images, scan_images

__all__ = ["OnCorrupt", "readable_images"]

OnCorrupt = Literal["skip", "raise"]


def readable_images(folder: str, option: str, on_corrupt: OnCorrupt, trainer: Trainer | None) -> list[Path]:
    """Files below a folder that can be decoded, each read in full to know.

    Args:
        folder: where to look, recursively.
        option: key of the config that names it.
        on_corrupt: ``skip`` leaves damaged files out, names some in a warning and lists all in ``corrupt_files.csv`` of
            the run; ``raise`` refuses them.
        trainer: whose run it is, if there is one.

    Raises:
        ManifestError: if there is no such folder, nothing in it, nothing that can be read, or a damaged file that is
            to be refused.
    """
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise ManifestError(f"data.{option}={folder}: there is no such folder.")
    paths = list_images(root)
    if not paths:
        raise ManifestError(f"data.{option}={folder} holds no images ({', '.join(sorted(IMAGE_SUFFIXES))}).")
    scan = scan_images(root, paths, cache=None, progress=len(paths) > 500)
    running = trainer is not None and trainer.loggers and trainer.is_global_zero
    report = Path(trainer.default_root_dir) / "corrupt_files.csv" if trainer is not None and running else None
    rows = add_scan(pd.DataFrame({"path": paths}), scan, on_corrupt, report)
    return [root / path for path in rows["path"]]
