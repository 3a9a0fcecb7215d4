"""How fast a new class is learnt from a few images: meta-training against joint training, scratch and all the data.

Model and data are those of a config, as for ``train.py``. Each variant is trained with each seed, or taken from
checkpoints, and then adapts to the held-out classes with K shots; figures are taken along the way. For example::

    python -m studies.few_shot -c configs/experiments/few_shot_procedural.yaml --seeds 0,1,2 --shots 3,10

Variants: ``reptile`` (or whatever ``--model.meta`` says), ``joint``, as many updates on all tasks at once; ``scratch``,
untrained weights; ``full``, untrained weights that get ``--full_shots`` images of the class and ``--full_steps``
steps: what much data would give. Further arguments go to the command line of ``train.py``.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from matplotlib.figure import Figure

from lightning_modules import FewShotTranslationGAN
from train import main, plain_refusals

__all__ = ["draw_curves", "run", "summary"]

VARIANTS = ("reptile", "joint", "scratch", "full")
_QUIET = ["--trainer.logger=false", "--trainer.limit_val_batches=0"]


def run(arguments: Sequence[str] | None = None) -> pd.DataFrame:
    """Parse, train, adapt, print and write.

    Args:
        arguments: as on the command line; the process's own if None.

    Returns:
        One row per variant, seed, number of shots, number of steps and figure: see :func:`summary`.
    """
    parser = argparse.ArgumentParser(
        prog="studies.few_shot",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--seeds", type=_numbers, default=[0], help="of training and adaptation, e.g. 0,1,2")
    parser.add_argument("--shots", type=_numbers, default=[10], help="images of the new class, e.g. 3,10")
    parser.add_argument("--variants", type=lambda text: text.split(","), default=list(VARIANTS))
    parser.add_argument("--checkpoints", type=Path, help="folder with <variant>_<seed>.ckpt to use instead of training")
    parser.add_argument("--full_shots", type=int, default=100, help="images of the new class for `full`")
    parser.add_argument("--full_steps", type=int, default=400, help="steps for `full`")
    parser.add_argument("--out", type=Path, default=Path("runs/few_shot_study"), help="folder for table and picture")
    options, rest = parser.parse_known_args(arguments)
    unknown = sorted(set(options.variants) - set(VARIANTS))
    if unknown:
        raise SystemExit(f"error: --variants: {', '.join(unknown)}; known are {', '.join(VARIANTS)}.")
    if options.checkpoints and not options.checkpoints.is_dir():
        raise SystemExit(f"error: --checkpoints: there is no folder {options.checkpoints}.")
    if min([*options.shots, options.full_shots]) < 1 or options.full_steps < 0:
        raise SystemExit(
            f"error: --shots {options.shots} and --full_shots {options.full_shots} must be at least 1, --full_steps "
            f"{options.full_steps} not negative."
        )
    options.out.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    for seed in options.seeds:
        for variant in options.variants:
            rows += _measured(variant, seed, options, rest)
            table = pd.DataFrame(rows)
            table.to_csv(options.out / "few_shot.csv", index=False)  # an interrupted study keeps what it has
    draw_curves(table).savefig(options.out / "few_shot.png", dpi=150)
    print(f"\nMedian over seeds {options.seeds}:\n\n{summary(table).round(3).to_string()}\n")
    print(f"{options.out}/few_shot.csv, few_shot.png")
    return table


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Median over seeds, a column per number of steps.

    Args:
        table: columns ``variant``, ``seed``, ``shots``, ``steps``, ``figure`` and ``value``.
    """
    return table.pivot_table(
        index=["figure", "shots", "variant"], columns="steps", values="value", aggfunc="median", sort=True
    )


def draw_curves(table: pd.DataFrame) -> Figure:
    """Accuracy and change of the rest against steps, a panel for each number of shots; median over seeds, with range.

    Args:
        table: as for :func:`summary`.
    """
    names = ("colour_accuracy", "judge_accuracy", "hair_colour_error")  # the last one is always there
    accuracy = next(name for name in names if name in set(table["figure"]))
    shots = sorted(table.loc[table["variant"] != "full", "shots"].unique()) or sorted(table["shots"].unique())
    panels = [(accuracy, count) for count in shots] + [("non_hair_l1", shots[-1])]
    figure = Figure(figsize=(4.2 * len(panels), 3.6), layout="constrained")
    labels = dict.fromkeys(names, "share translated to the new class") | {
        "hair_colour_error": "distance from the shots' mean colour",
        "non_hair_l1": "change outside of the hair (L1)",
    }
    for axes, (name, count) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        of_name = table[table["figure"] == name]
        for index, variant in enumerate(VARIANTS):
            part = of_name[of_name["variant"] == variant]
            if variant == "full" and len(part):
                level = part["value"].median()
                axes.axhline(level, color="black", ls=":", label=f"full, {part['steps'].max()} steps")
                continue
            curve = part[part["shots"] == count].groupby("steps")["value"]
            if len(curve):
                axes.plot(curve.median(), marker="o", ms=3, color=f"C{index}", label=variant)
                axes.fill_between(curve.median().index, curve.min(), curve.max(), color=f"C{index}", alpha=0.15)
        axes.set_xlabel("steps of adaptation")
        axes.set_ylabel(labels[name])
        axes.set_title(f"{count} shots", fontsize=10)
        axes.set_ylim(0, 1 if name.endswith("accuracy") else None)
        axes.grid(alpha=0.3)
    figure.axes[0].legend(fontsize=8)
    return figure


def _measured(variant: str, seed: int, options: argparse.Namespace, rest: list[str]) -> list[dict[str, Any]]:
    """Figures of a variant after adaptation with each number of shots."""
    common = [*rest, f"--seed_everything={seed}", f"--model.noise_seed={seed}", *_QUIET]
    if variant == "full":
        common.append(f"--model.adaptation_steps=[{options.full_steps}]")
    if variant == "joint":
        common += ["--model.meta=joint", "--data.batch_size=8"]  # eight tasks at once, as many updates
    given = options.checkpoints and options.checkpoints / f"{variant}_{seed}.ckpt"
    if variant in ("scratch", "full") or (given and given.is_file()):
        cli = main([*common, "--trainer.enable_checkpointing=false"], run=False)
    else:
        print(f"Training {variant} with seed {seed}")
        cli = main(["fit", *common])
        cli.trainer.save_checkpoint(options.out / f"{variant}_{seed}.ckpt", weights_only=True)
    model, data = cli.model, cli.datamodule
    if not isinstance(model, FewShotTranslationGAN):
        raise SystemExit(f"error: studies.few_shot needs a FewShotTranslationGAN, not {type(model).__name__}.")
    if given and given.is_file() and variant not in ("scratch", "full"):
        try:
            model.load_state_dict(torch.load(given, map_location="cpu", weights_only=True)["state_dict"])
        except RuntimeError as error:
            raise ValueError(f"--checkpoints: {given} does not fit the model of the config: {error}") from error
    rows: list[dict[str, Any]] = []
    for shots in [options.full_shots] if variant == "full" else options.shots:
        data.shots = shots
        data.prepare_data()
        data.setup("test")
        for name, value in _adapted(model, data).items():
            figure, _, steps = name.rpartition("/")
            row = {"variant": variant, "seed": seed, "shots": shots, "steps": int(steps)}
            rows.append({**row, "figure": figure, "value": value})
    return rows


def _adapted(model: FewShotTranslationGAN, data: Any) -> dict[str, float]:
    """Mean figures over all test tasks, under ``name/steps``."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device)
    data.trainer = model._trainer = None  # the loaders of one process
    for loader in data.test_dataloader().values():
        for index, batch in enumerate(loader):
            moved = {key: value.to(device) if hasattr(value, "to") else value for key, value in batch.items()}
            model.validation_step(data.on_after_batch_transfer(moved, 0), index)
    return model.figures.compute(list)


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


if __name__ == "__main__":
    with plain_refusals():
        run()
