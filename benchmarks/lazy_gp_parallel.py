"""Wall time of one worker against four on a sleep-bounded objective, through the workers of ``train.py tune``.

Run ``python benchmarks/lazy_gp_parallel.py [--pause 2] [--trials 24] [--seeds 0 1 2]``. A stand-in for ``train.py``
sleeps and reports a bowl; each study is made by ``python -m tuner.worker`` processes on a journal file. It prints the
time that four workers, which may make twice as many trials, need to reach the best value of the one.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from datetime import datetime
from pathlib import Path

import optuna

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tuner.settings import TuneSettings, open_study

ROOT = Path(__file__).resolve().parent.parent
STAND_IN = """
import json, os, sys, time
from pathlib import Path
options = dict(item.removeprefix("--").split("=", 1) for item in sys.argv[2:])
time.sleep(float(options["pause"]))
values = [float(options[f"a.{name}"]) for name in "xyz"]
folder = Path(json.loads(os.environ["TRUELIGHT_TRIAL"])["folder"])
loss = sum((value - best) ** 2 for value, best in zip(values, (0.3, 0.6, 0.45)))
(folder / "reports.jsonl").write_text(json.dumps([0, loss]) + "\\n")
"""


def timeline(workers: int, pause: float, trials: int, seed: int) -> list[tuple[float, float]]:
    """Seconds since the first trial began, and the value, of each finished trial."""
    space = {f"a.{name}": {"type": "float", "low": 0, "high": 1} for name in "xyz"}
    sampler = {"class_path": "tuner.LazyGPSampler", "init_args": {"seed": seed}}
    settings = TuneSettings.from_dict({"space": space, "monitor": "loss", "n_trials": trials, "sampler": sampler})
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "train.py").write_text(STAND_IN, encoding="utf-8")
        study = open_study(settings, Path(folder), "s")
        file = Path(folder, "settings.json")
        settings.save(file, experiment="s", arguments=[f"--pause={pause}"])
        path = os.pathsep.join([folder, str(ROOT)])
        environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "tuner.worker", str(file)]
        processes = [subprocess.Popen(command, env=environment, cwd=folder) for _ in range(workers)]
        for process in processes:
            if process.wait():
                raise SystemExit("A worker failed.")
        done = [trial for trial in study.trials if trial.state == optuna.trial.TrialState.COMPLETE]
        begun: datetime = min(trial.datetime_start for trial in done if trial.datetime_start)
        ends = [((t.datetime_complete - begun).total_seconds(), t.values[0]) for t in done if t.datetime_complete]
        return sorted(ends)


def compare(pause: float, trials: int, seed: int) -> float:
    """Print the times of one worker and of four; returns their ratio at the best value of the one."""
    one = timeline(1, pause, trials, seed)
    four = timeline(4, pause, 2 * trials, seed)
    for level in (1e-2, 1e-3, 1e-4):
        times = [next((seconds for seconds, value in line if value <= level), float("inf")) for line in (one, four)]
        print(f"value {level:g}: {times[0]:.1f} s and {times[1]:.1f} s, {times[1] / times[0]:.2f}")
    best = min(value for _, value in one)
    needed = next(seconds for seconds, value in one if value == best)
    reached = next((seconds for seconds, value in four if value <= best), float("inf"))
    print(f"one worker: best {best:.3g} after {needed:.1f} s, {len(one)} trials in {one[-1][0]:.1f} s")
    print(f"four workers: best {min(v for _, v in four):.3g}, {len(four)} trials in {four[-1][0]:.1f} s")
    as_many = four[trials - 1][0]
    print(f"as many trials: {as_many:.1f} s, {as_many / one[-1][0]:.2f} of the time of one worker")
    share = f"{reached:.1f} s, {reached / needed:.2f} of the time of one worker"
    said = share if reached < float("inf") else "not reached within twice as many trials"
    print(f"seed {seed}, the same best: {said}", flush=True)
    return reached / needed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pause", type=float, default=2.0)
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    ratios = [compare(options.pause, options.trials, seed) for seed in options.seeds]
    print(f"the same best, median of {len(ratios)} seeds: {statistics.median(ratios):.2f} of the time of one worker")


if __name__ == "__main__":
    main()
