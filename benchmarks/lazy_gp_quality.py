"""Best value found against the number of evaluations: LazyGPSampler, GPSampler, TPE and random search.

Run ``python benchmarks/lazy_gp_quality.py [--samplers lazy gp tpe random] [--seeds 5] [--trials 300]``. Levy-5,
Ackley-5 and Hartmann-6, each also with its minimum moved off the centre of the box, which flatters some methods. Every
run is cached in the folder of ``--out``, one file each, and not made again unless its sampler is named with
``--refresh``; all of them together make ``quality.csv`` and ``quality.png``. CPU seconds are those of ask and tell,
on one thread.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

torch.set_num_threads(1)  # GPSampler is made of it

Vector = NDArray[np.float64]
MARKS = (50, 100, 200, 300)
SHIFT = np.array([0.21, -0.17, 0.13, -0.23, 0.19, -0.11])  # of the width of the box


def levy(x: Vector) -> float:
    """Least value 0 at (1, ..., 1)."""
    w = 1 + (x - 1) / 4
    middle = (w[:-1] - 1) ** 2 * (1 + 10 * np.sin(np.pi * w[:-1] + 1) ** 2)
    last = (w[-1] - 1) ** 2 * (1 + np.sin(2 * np.pi * w[-1]) ** 2)
    return float(np.sin(np.pi * w[0]) ** 2 + middle.sum() + last)


def ackley(x: Vector) -> float:
    """Least value 0 at the origin."""
    waves = np.exp(np.cos(2 * np.pi * x).mean())
    return float(20 - 20 * np.exp(-0.2 * np.sqrt((x**2).mean())) + np.e - waves)


def hartmann(x: Vector) -> float:
    """Six variables; shifted by its least value, so that this is 0."""
    scales = np.array(
        [[10, 3, 17, 3.5, 1.7, 8], [0.05, 10, 17, 0.1, 8, 14], [3, 3.5, 1.7, 10, 17, 8], [17, 8, 0.05, 10, 0.1, 14]]
    )
    centres = 1e-4 * np.array(
        [
            [1312, 1696, 5569, 124, 8283, 5886],
            [2329, 4135, 8307, 3736, 1004, 9991],
            [2348, 1451, 3522, 2883, 3047, 6650],
            [4047, 8828, 8732, 5743, 1091, 381],
        ]
    )
    wells = np.exp(-(scales * (x - centres) ** 2).sum(axis=1))
    return float(3.322368011 - np.array([1.0, 1.2, 3.0, 3.2]) @ wells)


PROBLEMS: dict[str, tuple[Callable[[Vector], float], int, float, float, float]] = {
    # function, dimensions, box, how much of SHIFT keeps the minimum inside
    "levy5": (levy, 5, -10.0, 10.0, 0.0),
    "ackley5": (ackley, 5, -32.768, 32.768, 0.0),
    "hartmann6": (hartmann, 6, 0.0, 1.0, 0.0),
    "levy5_shifted": (levy, 5, -10.0, 10.0, 1.0),
    "ackley5_shifted": (ackley, 5, -32.768, 32.768, 1.0),
    "hartmann6_shifted": (hartmann, 6, 0.0, 1.0, 0.5),
}


def build_sampler(name: str, seed: int) -> optuna.samplers.BaseSampler:
    """A sampler with its default settings, or LazyGPSampler with another lag (``lazy-1``, ``lazy-never``)."""
    if name == "gp":
        return optuna.samplers.GPSampler(seed=seed)
    if name == "tpe":
        return optuna.samplers.TPESampler(seed=seed)
    if name == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    from tuner import LazyGPSampler

    lag = name.partition("-")[2] or "geometric"
    return LazyGPSampler(seed=seed, lag=int(lag) if lag.isdigit() else lag)  # type: ignore[arg-type]


def one_run(problem: str, sampler: str, seed: int, trials: int) -> dict[str, Any]:
    """Values in the order of evaluation, and CPU seconds of ask and tell so far."""
    function, dimensions, low, high, share = PROBLEMS[problem]
    shift = share * SHIFT[:dimensions] * (high - low)
    space = {f"x{i}": optuna.distributions.FloatDistribution(low, high) for i in range(dimensions)}
    study = optuna.create_study(sampler=build_sampler(sampler, seed))
    values, seconds, spent = [], [], 0.0
    for _ in range(trials):
        start = time.process_time()
        trial = study.ask(space)
        value = function(np.array([trial.params[name] for name in space]) - shift)
        study.tell(trial, value)
        spent += time.process_time() - start
        values.append(value)
        seconds.append(spent)
    return {"problem": problem, "sampler": sampler, "seed": seed, "values": values, "seconds": seconds}


def table(folder: Path, trials: int) -> pd.DataFrame:
    """Median regret and CPU seconds at each mark, one row per problem and sampler."""
    runs = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*/*.json"))]
    rows: list[dict[str, Any]] = []
    for problem in PROBLEMS:
        for sampler in sorted({run["sampler"] for run in runs}):
            chosen = [r for r in runs if (r["problem"], r["sampler"]) == (problem, sampler)]
            chosen = [r for r in chosen if len(r["values"]) >= trials]
            if not chosen:
                continue
            best = np.minimum.accumulate([r["values"][:trials] for r in chosen], axis=1)
            row: dict[str, Any] = {"problem": problem, "sampler": sampler, "seeds": len(chosen)}
            row |= {str(mark): np.median(best[:, mark - 1]) for mark in MARKS if mark <= trials}
            row["worst"] = best[:, -1].max()
            row["cpu_s"] = np.median([r["seconds"][trials - 1] for r in chosen])
            rows.append(row)
    return pd.DataFrame(rows)


def draw(folder: Path, trials: int) -> None:
    """Median and range of the regret, a panel for each problem."""
    from matplotlib.figure import Figure

    runs = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*/*.json"))]
    figure = Figure(figsize=(12, 7), layout="constrained")
    for axes, problem in zip(figure.subplots(2, 3).flat, PROBLEMS, strict=True):
        for colour, sampler in enumerate(sorted({run["sampler"] for run in runs})):
            chosen = [r["values"][:trials] for r in runs if (r["problem"], r["sampler"]) == (problem, sampler)]
            chosen = [values for values in chosen if len(values) >= trials]
            if not chosen:
                continue
            best = np.maximum(np.minimum.accumulate(chosen, axis=1), 1e-7)
            steps = np.arange(1, trials + 1)
            axes.plot(steps, np.median(best, axis=0), color=f"C{colour}", label=f"{sampler} ({len(chosen)} seeds)")
            axes.fill_between(steps, best.min(axis=0), best.max(axis=0), color=f"C{colour}", alpha=0.12, linewidth=0)
        axes.set(title=problem, yscale="log", xlabel="evaluations", ylabel="regret (median, range)")
        axes.legend(fontsize=7)
    figure.savefig(folder / "quality.png", dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samplers", nargs="+", default=["lazy", "tpe", "random", "gp"])
    parser.add_argument("--problems", nargs="+", default=list(PROBLEMS), choices=list(PROBLEMS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--trials", type=int, default=300)
    parser.add_argument("--refresh", nargs="*", default=[], help="samplers whose runs are made again")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks/lazy_gp_quality"))
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    for sampler in options.samplers:
        for problem in options.problems:
            for seed in range(options.seeds):
                path = options.out / sampler / f"{problem}-{seed}-{options.trials}.json"
                if path.is_file() and sampler not in options.refresh:
                    continue
                run = one_run(problem, sampler, seed, options.trials)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(json.dumps(run), encoding="utf-8")
                print(
                    f"{sampler} {problem} {seed}: {min(run['values']):.4g}, {run['seconds'][-1]:.1f} CPU s", flush=True
                )
    result = table(options.out, options.trials)
    result.to_csv(options.out / "quality.csv", index=False)
    draw(options.out, options.trials)
    print(result.to_string(index=False, float_format=lambda value: f"{value:.3g}"))


if __name__ == "__main__":
    with threadpool_limits(1):
        main()
