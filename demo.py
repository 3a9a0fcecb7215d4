"""What ``make demo`` runs: an audit of the procedural GenImage, raw and constrained detectors, matrices and probes.

Everything goes through the command line of ``train.py``, called in process; each command is printed, so that it can
be run alone. Further arguments are passed on to each: ``python demo.py --trainer.max_epochs 30``.
"""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from torch.utils.data import default_collate

from datamodules.synthetic import GENERATORS
from train import TrueLightCLI, main

TRAINED_ON = ("nearest", "bilinear")
REGIMES = ("raw", "constrained")
OUT = Path("runs/demo")
CONFIGS = Path(os.path.relpath(Path(__file__).resolve().parent / "configs"))
PANELS = {"jpeg": "JPEG quality", "resize": "resized by", "blur": "blur, pixels", "noise": "noise, grey levels"}
CONDITIONS = {"as they are": "", "saved as JPEG 96": "@jpeg96"}


def command(*arguments: str) -> TrueLightCLI:
    """Print a command line and run it."""
    print(f"\n$ python train.py {shlex.join(arguments)}", flush=True)
    return main(list(arguments))


def run_detector(regime: str, generator: str, extra: Sequence[str]) -> tuple[TrueLightCLI, list[dict[str, object]]]:
    """Train one detector and test it on all generators, with fakes as they are and re-saved.

    Args:
        regime: ``raw`` or ``constrained``.
        generator: training generator.
        extra: further arguments.

    Returns:
        The finished test run, and one row for each condition: TPR and TNR on the training generator's own test
        images, in %.
    """
    common = ["-c", str(CONFIGS / "demo" / f"{regime}.yaml"), f"--data.train_generators=[{generator}]"]
    common += [f"--experiment=demo/{regime}_{generator}"]
    if regime == "constrained":
        common += [f"--data.size_window={list(GENERATORS[generator].size_window)}"]
    common += extra
    command("fit", *common)
    base = [f"--trainer.callbacks.base={OUT / 'raw'}"] if regime == "constrained" else []
    matrix = ["--trainer.callbacks+=CrossGeneratorMatrix", f"--trainer.callbacks.trained_on={generator}"]
    probe = ["-c", str(CONFIGS / "callbacks" / "bias_probe.yaml"), f"--trainer.callbacks.loaders=[{generator}]"]
    cli = command(
        "test", "--verbose=false", *common, *probe, *matrix, f"--trainer.callbacks.folder={OUT / regime}", *base
    )
    metrics = cli.trainer.callback_metrics
    return cli, [
        {
            "selection": regime,
            "trained on": generator,
            "fakes": condition,
            "TPR": 100 * float(metrics[f"test/{generator}{suffix}/tpr"]),
            "TNR": 100 * float(metrics[f"test/{generator}{suffix}/tnr"]),
        }
        for condition, suffix in CONDITIONS.items()
    ]


def draw_world(datamodule: Any, per_label: int = 4) -> Figure:
    """Sheet of test images: per row the first reals and fakes of one generator, centre crops as the detector sees."""
    samples: list[dict[str, Any]] = []
    for name, dataset in datamodule.test_sets.items():
        if "@" not in name:
            labels = dataset.labels
            chosen = [i for label in (0, 1) for i in [i for i, x in enumerate(labels) if x == label][:per_label]]
            samples += [dataset[i] for i in chosen]
    batch = datamodule.on_before_batch_transfer(default_collate(samples), 0)
    return datamodule.plot(datamodule.on_after_batch_transfer(batch, 0), columns=2 * per_label)


def draw_shortcut(table: pd.DataFrame) -> Figure:
    """Bars of TPR before and after the fakes are re-saved, one pair for each detector."""
    figure = Figure(figsize=(8.5, 3.6), layout="constrained")
    axes = figure.subplots()
    names = [f"{regime}\n{generator}" for regime in REGIMES for generator in TRAINED_ON]
    for offset, (condition, colour) in enumerate(zip(CONDITIONS, ("tab:blue", "tab:orange"), strict=True)):
        rates = table.loc[table["fakes"] == condition, "TPR"]
        bars = axes.bar([x + 0.4 * offset for x in range(len(names))], rates, 0.38, label=condition, color=colour)
        axes.bar_label(bars, fmt="%.0f")
    axes.set_xticks([x + 0.2 for x in range(len(names))], names)
    axes.set_ylabel("fakes found (TPR) in %")
    axes.set_ylim(0, 108)
    axes.set_title("A raw detector finds the file format, a constrained one the generator")
    axes.legend(title="test fakes", loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def draw_probes(probes: dict[str, pd.DataFrame]) -> Figure:
    """TPR of each detector on its own generator against what happens to the images on their way."""
    figure = Figure(figsize=(13, 3.4), layout="constrained")
    for axes, (degradation, title) in zip(figure.subplots(1, len(PANELS), sharey=True), PANELS.items(), strict=True):
        for index, (name, table) in enumerate(probes.items()):
            rows = table[(table["degradation"] == degradation) & (table["metric"] == "tpr")].sort_values("level")
            style = {"color": f"C{index % len(TRAINED_ON)}", "linestyle": "--" if name.startswith("raw") else "-"}
            axes.plot(rows["level"], 100 * rows["value"], marker=".", label=name, **style)
            axes.fill_between(rows["level"], 100 * rows["low"], 100 * rows["high"], alpha=0.12, color=style["color"])
        axes.set_xlabel(title)
    figure.axes[0].set_ylabel("fakes found (TPR) in %")
    figure.axes[-1].legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def run(extra: Sequence[str] = ()) -> None:
    """Train, test, draw, and print where everything is."""
    start = time.perf_counter()
    OUT.mkdir(parents=True, exist_ok=True)
    for regime in REGIMES:
        for file in (OUT / regime).glob("cross_generator*"):
            file.unlink()  # the matrices of an earlier demo
    audited = ["-c", str(CONFIGS / "demo" / "raw.yaml"), "--experiment=demo/audit", "--samples=100"]
    pages = [command("audit", *audited, *(a for a in extra if a.startswith("--data."))).run_directory]
    rows: list[dict[str, object]] = []
    probes: dict[str, pd.DataFrame] = {}
    for regime in REGIMES:
        for generator in TRAINED_ON:
            cli, measured = run_detector(regime, generator, extra)
            rows += measured
            if (table_file := Path(cli.run_directory or OUT) / "bias_probe.csv").is_file():
                table = pd.read_csv(table_file)
                table["level"] = pd.to_numeric(table["level"], errors="coerce")
                probes[f"{regime}, {generator}"] = table[table["loader"] == generator]
    draw_world(cli.datamodule).savefig(OUT / "world.png", dpi=110)
    table = pd.DataFrame(rows)
    table.to_csv(OUT / "shortcut.csv", index=False)
    if probes:
        draw_probes(probes).savefig(OUT / "probe.png", dpi=150)
    draw_shortcut(table).savefig(OUT / "shortcut.png", dpi=150)
    wide = table.pivot_table("TPR", ["selection", "trained on"], "fakes", sort=False)
    wide["lost"] = wide["as they are"] - wide["saved as JPEG 96"]
    print("\nFakes found by detectors on their own generator, before and after the same fakes are saved as JPEG 96,")
    print(f"TPR in %:\n\n{wide.round(1).to_string()}\n")
    print("Tables and pictures:")
    for file in sorted(OUT.glob("*.png")) + sorted(OUT.glob("*/cross_generator*.png")):
        print(f"  {file}")
    for page in pages:
        print(f"  {page}/audit.html")
    print(f"Done in {time.perf_counter() - start:.0f} s.")


if __name__ == "__main__":
    arguments = sys.argv[1:]
    sys.argv = sys.argv[:1]
    run(arguments)
