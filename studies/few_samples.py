"""How few labelled images a spectrum detector needs: a table and a picture of accuracy against their number.

Model and data are those of a config, as for ``train.py``; spectra of all images are taken once, then each head is
fitted on N of them and tested on all others, for several draws. For example::

    python -m studies.few_samples -c configs/papers/unmasking_deepfakes/celeba.yaml --sizes 20,200,1600 --seeds 20

Further arguments go to the command line of ``train.py``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from callbacks.spectrum_plots import draw_few_samples
from datamodules import ManifestError, SelectionError
from lightning_modules import SpectrumDetector
from lightning_modules.few_samples import few_sample_summary, few_sample_table
from lightning_modules.fitted_heads import FITTED_HEADS, FittedHeadName
from train import main

__all__ = ["collect_features", "run"]


def run(arguments: Sequence[str] | None = None) -> pd.DataFrame:
    """Parse, measure, print and write.

    Args:
        arguments: as on the command line; the process's own if None.

    Returns:
        One row per head, N and draw, as from :func:`few_sample_table`.
    """
    parser = argparse.ArgumentParser(
        prog="studies.few_samples",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--sizes", type=_numbers, default=[20, 100, 200, 1000], help="training images, e.g. 20,200")
    parser.add_argument("--seeds", type=int, default=10, help="number of draws")
    parser.add_argument("--heads", type=_heads, default=list(FITTED_HEADS), help=f"some of {','.join(FITTED_HEADS)}")
    parser.add_argument("--metric", choices=["accuracy", "balanced_accuracy", "auroc"], default="accuracy")
    options, rest = parser.parse_known_args(arguments)
    cli = main([*rest, "--trainer.logger=false", "--trainer.enable_checkpointing=false"], run=False)
    if not isinstance(cli.model, SpectrumDetector):
        raise SystemExit(f"error: studies.few_samples needs a SpectrumDetector, not {type(cli.model).__name__}.")
    features, labels, groups = collect_features(cli.model, cli.datamodule)
    sizes = [size for size in options.sizes if size <= len(labels) - 2]
    if not sizes:
        raise SystemExit(f"error: --sizes {options.sizes}: there are {len(labels)} images in all.")
    for size in set(options.sizes) - set(sizes):
        print(f"--sizes {size} is left out: there are {len(labels)} images in all.")
    head = {key: value for key, value in cli.model.hparams.items() if key in ("C", "gamma", "standardize")}
    table = few_sample_table(features, labels, sizes, range(options.seeds), options.heads, groups, **head)
    folder = Path(cli.run_directory or ".")
    folder.mkdir(parents=True, exist_ok=True)
    table.to_csv(folder / "few_samples.csv", index=False)
    draw_few_samples(table, options.metric).savefig(folder / "few_samples.png", dpi=150)
    summary = few_sample_summary(table, options.metric)
    counts = f"{int((labels == 0).sum())} real and {int((labels == 1).sum())} fake"
    print(f"\n{options.metric} in %, mean and standard deviation over {options.seeds} draws from {counts} images;")
    print(f"what is not trained on is tested on:\n\n{summary.round(2).to_string()}\n\n{folder}/few_samples.csv, .png")
    return table


@torch.no_grad()
def collect_features(model: SpectrumDetector, datamodule: Any) -> tuple[Tensor, Tensor, NDArray[np.str_] | None]:
    """Features of all images of a datamodule, each once, in the order of their names.

    Args:
        model: takes the spectra of batches of images.
        datamodule: its training, validation and test sets are put together.

    Returns:
        Features ``(N, K)``, labels ``(N,)``, and groups ``(N,)`` where the batches have them.
    """
    datamodule.prepare_data()
    datamodule.setup("fit")
    datamodule.setup("test")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = model.to(device)
    features, rows = [], []
    for dataset in (datamodule.train_set, datamodule.val_set, *datamodule.test_sets.values()):
        for batch in datamodule.loader(dataset) if len(dataset) else ():
            batch = datamodule.on_before_batch_transfer(batch, 0)
            batch = {key: value.to(device) if isinstance(value, Tensor) else value for key, value in batch.items()}
            batch = datamodule.on_after_batch_transfer(batch, 0)
            features.append(model.batch_features(batch).cpu())
            columns = {"path": batch["path"], "label": batch["label"].tolist(), "group": batch.get("group")}
            rows.append(pd.DataFrame(columns))
    table = pd.concat(rows, ignore_index=True).drop_duplicates("path").sort_values("path")
    chosen = torch.cat(features)[torch.from_numpy(table.index.to_numpy().copy())]
    groups = None if table["group"].isna().any() else table["group"].to_numpy(dtype=str)
    return chosen, torch.tensor(table["label"].tolist()), groups


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def _heads(text: str) -> list[FittedHeadName]:
    names = [name for name in FITTED_HEADS if name in text.split(",")]
    unknown = set(text.split(",")) - set(names)
    if unknown:
        raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))}: known are {', '.join(FITTED_HEADS)}")
    return names


def console() -> None:
    """Run the command line; data or options that are refused end it with the message alone, no traceback."""
    try:
        run()
    except (ManifestError, SelectionError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    console()
