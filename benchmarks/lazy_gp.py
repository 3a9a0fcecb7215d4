"""What a growing factor and rare refits save, in CPU seconds on one thread.

Run ``python benchmarks/lazy_gp.py [--peers] [--largest 4000]``. It prints, and writes to ``lazy_gp.csv`` and
``lazy_gp.png`` in the folder of ``--out``:

- the factor alone, grown row by row to n, against LAPACK's anew at every step (measured at every k-th n and summed) and
  against the time that reading it takes at the bandwidth measured in the same run;
- one suggestion and its tell with n trials known, from 500 to the largest; with ``--peers`` also GPSampler's at 1000;
- 300 trials on Levy-5; with ``--peers`` GPSampler's too (about two minutes).
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
from matplotlib.figure import Figure
from scipy.linalg import cholesky
from threadpoolctl import threadpool_limits

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from lazy_gp_quality import PROBLEMS, build_sampler, one_run

from functional.growing_cholesky import GrowingCholesky
from functional.matern import matern


def factor_row(n: int) -> dict[str, Any]:
    x = np.random.default_rng(0).random((n, 5))
    covariance = matern(x, x, np.full(5, 0.45)) + 1e-6 * np.eye(n)
    repeats = 3 if n <= 2000 else 1
    grown, blocks = [], []
    for _ in range(repeats):
        factor = GrowingCholesky(n)
        start = time.process_time()
        for row in range(n):
            factor.append(covariance[row, :row], covariance[row, row])
        grown.append(time.process_time() - start)
        in_blocks = GrowingCholesky(n)
        start = time.process_time()
        for row in range(0, n, 20):
            in_blocks.append_block(covariance[:row, row : row + 20], covariance[row : row + 20, row : row + 20])
        blocks.append(time.process_time() - start)
    every = max(1, n // 40)
    lapack = 0.0
    for size in range(every, n + 1, every):
        part = covariance[:size, :size].copy()
        times = []
        for _ in range(3 if size < 1000 else 1):
            start = time.process_time()
            full = cholesky(part, lower=True, check_finite=False)
            times.append(time.process_time() - start)
        lapack += every * min(times)
    vector = factor.packed[: n * (n + 1) // 2]
    start, passes = time.process_time(), max(3, int(2e8 / len(vector)))
    for _ in range(passes):
        float(vector @ vector)
    bandwidth = passes * 8 * len(vector) / (time.process_time() - start)
    floor = 4 * n**3 / 3 / bandwidth
    seconds = float(np.median(grown))
    return {
        "n": n,
        "grown_s": seconds,
        "blocks_of_20_s": float(np.median(blocks)),
        "lapack_s": lapack,
        "ratio": lapack / seconds,
        "floor_s": floor,
        "of_floor": seconds / floor,
        "error": np.abs(factor.dense()[: len(full), : len(full)] - full).max(),
    }


def known_study(sampler: str, n: int) -> optuna.Study:
    """A study of n random trials on Levy-5."""
    function, dimensions, low, high, _ = PROBLEMS["levy5"]
    space = {f"x{i}": optuna.distributions.FloatDistribution(low, high) for i in range(dimensions)}
    study = optuna.create_study(sampler=build_sampler(sampler, 0))
    rng = np.random.default_rng(0)
    for x in rng.uniform(low, high, (n, dimensions)):
        parameters = dict(zip(space, x.tolist(), strict=True))
        study.add_trial(optuna.trial.create_trial(params=parameters, distributions=space, value=function(x)))
    return study


def suggestion(sampler: str, n: int, repeats: int) -> float:
    """Median CPU seconds of ask and tell, the first one, which builds the factor, left out."""
    function, dimensions, low, high, _ = PROBLEMS["levy5"]
    space = {f"x{i}": optuna.distributions.FloatDistribution(low, high) for i in range(dimensions)}
    study = known_study(sampler, n)
    times = []
    for _ in range(repeats + 1):
        start = time.process_time()
        trial = study.ask(space)
        study.tell(trial, function(np.array(list(trial.params.values()))))
        times.append(time.process_time() - start)
    return float(np.median(times[1:]))


def draw(factors: pd.DataFrame, asks: pd.DataFrame, file: Path) -> None:
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for column, label in (("lapack_s", "LAPACK at each step"), ("grown_s", "grown"), ("floor_s", "bandwidth floor")):
        left.loglog(factors["n"], factors[column], ".-", label=label)
    left.set(xlabel="observations n", ylabel="CPU seconds to n", title="the factor alone")
    left.legend()
    right.loglog(asks["n"], asks["seconds"], ".-", label="LazyGPSampler")
    first = asks.iloc[0]
    for power in (1, 2):
        reference = first["seconds"] * (asks["n"] / first["n"]) ** power
        right.loglog(asks["n"], reference, ":", color="0.5")
        right.annotate(f"n^{power}", (asks["n"].iloc[-1], reference.iloc[-1]), color="0.4")
    right.set(xlabel="trials n", ylabel="CPU seconds", title="one suggestion and its tell, warm")
    right.legend()
    for axes in (left, right):
        axes.minorticks_off()
        axes.set_xticks(factors["n"], factors["n"])
    figure.savefig(file, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", action="store_true", help="measure GPSampler as well")
    parser.add_argument("--largest", type=int, default=4000)
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks/lazy_gp"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    sizes = [n for n in (500, 1000, 2000, 4000) if n <= options.largest]
    factors = pd.DataFrame([factor_row(n) for n in sizes])
    print(factors.to_string(index=False, float_format=lambda value: f"{value:.3g}"), flush=True)
    factors.to_csv(options.out / "lazy_gp.csv", index=False)
    asks = pd.DataFrame([{"n": n, "seconds": suggestion("lazy", n, 7)} for n in sizes])
    print("\none suggestion and its tell\n", asks.to_string(index=False, float_format="{:.4f}".format), flush=True)
    draw(factors, asks, options.out / "lazy_gp.png")
    if options.peers and 1000 in sizes:
        peer = suggestion("gp", 1000, 2)
        ours = float(asks.loc[asks["n"] == 1000, "seconds"].iloc[0])
        print(f"GPSampler at n = 1000: {peer:.2f} s, {peer / ours:.0f} times ours", flush=True)
    for sampler in ["lazy"] + ["gp"] * options.peers:
        seconds = one_run("levy5", sampler, 0, 300)["seconds"][-1]
        print(f"Levy-5 to 300 trials, {sampler}: {seconds:.1f} CPU s", flush=True)


if __name__ == "__main__":
    with threadpool_limits(1):
        main()
