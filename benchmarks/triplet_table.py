"""Losses x label noise x seeds, k-means and multicut on the test images of a config.

Run ``python benchmarks/triplet_table.py -c configs/experiments/triplet_cifar10.yaml [--noise 0 0.2] [--seeds 0 1]``.
Each run is a fit of its own, judged with its last weights; rows are printed as they come and written to
``triplet_table.csv`` in the folder of ``--out``, and those that it holds already are not run again. Further arguments
go to the command line of ``train.py``.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

import pandas as pd
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from train import main as command_line

KEYS = [f"{method}_{key}" for method in ("kmeans", "multicut") for key in ("accuracy", "nmi", "vi")]
COLUMNS = [*KEYS, "multicut_clusters", "multicut_over_segmentation", "multicut_under_segmentation", "zero_crossing"]
ALONE = ["--trainer.accelerator=cpu", "--trainer.devices=1"]
QUIET = ["--trainer.logger=false", "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]


def one_run(rest: list[str], loss: str, noise: float, seed: int) -> dict[str, float | str]:
    start = time.process_time()
    device = [] if torch.cuda.is_available() else ALONE
    settings = [
        f"--model.loss={loss}",
        f"--data.label_noise={noise}",
        f"--seed_everything={seed}",
        f"--data.seed={seed}",
    ]
    extra = [*QUIET, "--trainer.enable_checkpointing=false", *device, *settings]
    cli = command_line(["fit", *rest, *extra])
    results = cli.trainer.test(cli.model, datamodule=cli.datamodule, verbose=False)[0]
    row: dict[str, float | str] = {"loss": loss, "noise": noise, "seed": seed}
    row |= {key: round(results[f"test/{key}"], 4) for key in COLUMNS}
    return row | {"cpu_seconds": round(time.process_time() - start)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--losses", nargs="+", default=["triplet", "bounded", "two_margin"])
    parser.add_argument("--noise", nargs="+", type=float, default=[0.0, 0.2, 0.4])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("runs"))
    options, rest = parser.parse_known_args()
    torch.set_num_threads(options.threads)
    os.environ.setdefault("TQDM_DISABLE", "1")
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / "triplet_table.csv"
    table = pd.read_csv(file) if file.is_file() else pd.DataFrame(columns=["loss", "noise", "seed"])
    for seed in options.seeds:
        for noise in options.noise:
            for loss in options.losses:
                done = (table["loss"] == loss) & (table["noise"] == noise) & (table["seed"] == seed)
                if done.any():
                    continue
                row = pd.DataFrame([one_run([*rest, f"--runs={options.out}"], loss, noise, seed)])
                table = pd.concat([table, row], ignore_index=True) if len(table) else row
                table.to_csv(file, index=False)
                print(row.to_string(index=False), flush=True)
    means = table.groupby(["noise", "loss"])[[*KEYS, "multicut_clusters", "zero_crossing"]].mean()
    print(f"\nMeans over seeds {options.seeds}:\n\n{means.round(3).to_string()}")


if __name__ == "__main__":
    main()
