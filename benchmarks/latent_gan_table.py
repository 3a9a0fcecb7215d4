"""Table and curve of finished runs of LatentConditionedGAN: distance and accuracy by condition and seed.

Run ``python benchmarks/latent_gan_table.py RUN [RUN ...] [--picture curve.png]`` with the folders of fits that had a
judge, e.g. ``runs/latent_gan_digits/*``. Of each run the last validation counts, with the weights that it ended with;
runs of one condition are summarised by their median. The curve shows the distance over the generator's steps.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd
import yaml
from matplotlib.figure import Figure

SHOWN = ["conditional_accuracy", "FID", "FID_floor", "KID", "coverage", "recall", "class_entropy", "spread_over_noise"]


def kind(run: Path) -> tuple[str, int]:
    """How a run was conditioned, and its seed."""
    config = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    options = config["model"]["init_args"]
    name = options["condition"] + (" shuffled" if options["shuffled_conditions"] else "")
    norm = options["condition_norm"]
    return name if norm == 8 or name == "none" else f"{name} (length {norm:g})", config["seed_everything"]


def validations(run: Path) -> pd.DataFrame:
    """One row per validation with a distance, with the generator's steps taken by then, over all parts of a run."""
    parts = [pd.read_csv(file) for file in sorted(run.glob("csv*/metrics.csv"))]
    log = pd.concat(parts, ignore_index=True)
    if "val/distance" not in log:
        raise SystemExit(f"{run}: no validation with a judge yet.")
    log["generator_step"] = log["generator_step"].ffill()
    rows = log[log["val/distance"].notna() & (log["val/distance"] < float("inf"))]
    return rows.rename(columns=lambda name: name.removeprefix("val/").partition("[")[0]).reset_index(drop=True)


def draw(curves: dict[tuple[str, int], pd.DataFrame], file: Path, label: str) -> None:
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.subplots()
    colours = {name: f"C{index}" for index, name in enumerate(dict.fromkeys(name for name, _ in curves))}
    for (name, seed), rows in curves.items():
        first = seed == min(other for kept, other in curves if kept == name)
        axes.plot(rows["generator_step"], rows["FID"], color=colours[name], marker=".", label=name if first else None)
    axes.set(xlabel="generator steps", ylabel=label, yscale="log")
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(file, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--picture", type=Path)
    options = parser.parse_args()
    curves, rows, names = {}, [], set()
    for run in options.runs:
        condition, seed = kind(run)
        log = pd.read_csv(next(run.glob("csv*/metrics.csv")), nrows=0)
        names |= {column.removeprefix("val/") for column in log.columns if column.startswith("val/FID[")}
        curves[condition, seed] = validations(run)
        last = curves[condition, seed].iloc[-1]
        rows.append({"condition": condition, "seed": seed, "steps": last["generator_step"], **last[SHOWN]})
    table = pd.DataFrame(rows).sort_values(["condition", "seed"])
    print(f"{', '.join(sorted(names))}; last validation of each run\n")
    print(table.to_string(index=False, float_format="%.3f"))
    print("\nMedians over seeds\n")
    print(table.drop(columns="seed").groupby("condition").median().to_string(float_format="%.3f"))
    if options.picture:
        draw(curves, options.picture, ", ".join(sorted(names)))
        print(f"\nWritten: {options.picture}")


if __name__ == "__main__":
    main()
