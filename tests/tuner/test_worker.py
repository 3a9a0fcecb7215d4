"""Workers on a journal, with a stand-in for ``train.py`` that sleeps: kills, interruptions, pruning, failures."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import optuna
import pytest
from conftest import ROOT
from optuna.trial import TrialState

from tuner.encoding import Encoding
from tuner.lazy_gp_sampler import LOST
from tuner.leases import RETRY_OF, give_back, reclaim, sign_of_life
from tuner.settings import TuneSettings, open_study
from tuner.worker import counted

STAND_IN = """
import json, os, sys, time
from pathlib import Path
options = dict(item.removeprefix("--").split("=", 1) for item in sys.argv[2:])
channel = json.loads(os.environ["TRUELIGHT_TRIAL"])
folder = Path(channel["folder"])
(folder / f"pid-{os.getpid()}").touch()
x, y = float(options["a.x"]), float(options["a.y"])
if options.get("crash") == "true":
    sys.exit("error: out of memory")
for epoch in range(5):
    time.sleep(float(options["pause"]) / 5)
    with (folder / "reports.jsonl").open("a") as file:
        file.write(json.dumps([epoch, (x - 0.3) ** 2 + (y - 0.6) ** 2 + (4 - epoch) / 10]) + "\\n")
    if (folder / "stop").exists():
        break
"""
SPACE = {"a.x": {"type": "float", "low": 0, "high": 1}, "a.y": {"type": "float", "low": 0, "high": 1}}


@pytest.fixture(autouse=True)
def stand_in(monkeypatch):
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    Path("train.py").write_text(STAND_IN)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path.cwd()), str(ROOT)]))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def begin(*arguments, **options):
    """Settings, study and the file that starts workers."""
    sampler = {"class_path": "tuner.LazyGPSampler", "init_args": {"seed": 0, "n_startup_trials": 4}}
    settings = TuneSettings.from_dict({"space": SPACE, "monitor": "loss", "sampler": sampler, **options})
    folder = Path("study").absolute()
    folder.mkdir()
    study = open_study(settings, folder, "s")
    settings.save(folder / "settings.json", experiment="s", arguments=list(arguments))
    return settings, study, folder / "settings.json"


def worker(file):
    return subprocess.Popen(
        [sys.executable, "-m", "tuner.worker", str(file)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def alive(process):
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="that a trial dies with its worker is promised on Linux")
def test_four_workers_of_which_one_is_killed_lose_nothing():
    _, study, file = begin("--pause=0.6", n_trials=20, lease=30.0)
    workers = [worker(file) for _ in range(4)]
    victim = workers[0]

    def owned():
        running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        return [t for t in running if t.user_attrs.get("tune:owner", [0, 0])[1] == victim.pid and len(t.params) == 2]

    wait_for(lambda: len(counted(study)) >= 4 and owned())
    before = {t.number: t.values for t in counted(study)}
    (lost,) = owned()
    wait_for(lambda: list(Path(f"study/trials/{lost.number:04d}").glob("pid-*")))
    child = int(next(Path(f"study/trials/{lost.number:04d}").glob("pid-*")).name.removeprefix("pid-"))
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    wait_for(lambda: not alive(child), 10)
    for other in workers[1:]:
        output, _ = other.communicate(timeout=120)
        assert other.returncode == 0, output
    done = counted(study)
    assert len(done) == 20
    assert all(trial.state == TrialState.COMPLETE for trial in done)
    after = {trial.number: trial.values for trial in done}
    assert all(after[number] == values for number, values in before.items())  # none lost
    assert study.trials[lost.number].user_attrs[LOST]
    (again,) = [trial for trial in done if trial.user_attrs.get(RETRY_OF) == lost.number]
    assert again.params == lost.params
    spots = np.array([Encoding(again.distributions).encode(trial.params) for trial in done])
    distance = np.abs(spots[:, None] - spots[None]).max(axis=-1) + np.eye(20)
    assert distance.min() > 1e-6  # no twins


@pytest.mark.slow
def test_two_workers_share_a_database():
    _, study, file = begin("--pause=0.2", n_trials=8, storage=f"sqlite:///{Path('study.db').absolute()}")
    for process in [worker(file) for _ in range(2)]:
        output, _ = process.communicate(timeout=120)
        assert process.returncode == 0, output
    done = counted(study)
    assert [trial.state for trial in done] == [TrialState.COMPLETE] * 8
    assert len({trial.user_attrs["tune:owner"][1] for trial in done}) == 2
    spots = np.array([[trial.params["a.x"], trial.params["a.y"]] for trial in done])
    distance = np.abs(spots[:, None] - spots[None]).max(axis=-1) + np.eye(8)
    assert distance.min() > 1e-6  # no twins
    assert not Path("study/journal.log").exists()


@pytest.mark.slow
def test_an_interrupted_worker_gives_its_trial_back_and_the_next_goes_on():
    _, study, file = begin("--pause=1", n_trials=4)
    first = worker(file)
    wait_for(lambda: any(len(t.params) == 2 for t in study.get_trials(states=(TrialState.RUNNING,))))
    first.send_signal(signal.SIGINT)
    assert first.wait(30) == 130
    assert not study.get_trials(states=(TrialState.RUNNING,))
    second = worker(file)
    output, _ = second.communicate(timeout=90)
    assert second.returncode == 0, output
    done = counted(study)
    assert [trial.state for trial in done] == [TrialState.COMPLETE] * 4
    assert done[0].user_attrs[RETRY_OF] == 0
    best = [min(json.loads(line)[1] for line in path.open()) for path in Path("study/trials").glob("*/reports.jsonl")]
    assert study.best_value == min(best)


@pytest.mark.slow
def test_trials_are_pruned_in_flight_and_failures_end_the_study_with_a_reason():
    class_path = "optuna.pruners.ThresholdPruner"
    pruner = {"class_path": class_path, "init_args": {"upper": 0.5, "n_warmup_steps": 1}}
    _, study, file = begin("--pause=1", n_trials=4, pruner=pruner)
    process = worker(file)
    output, _ = process.communicate(timeout=90)
    assert process.returncode == 0, output
    pruned = [trial for trial in study.trials if trial.state == TrialState.PRUNED]
    assert pruned
    assert all(len(trial.intermediate_values) < 5 for trial in pruned)
    settings = TuneSettings.from_dict({"space": SPACE, "monitor": "loss", "study_name": "broken"})
    broken = open_study(settings, Path("study"), "broken")
    settings.save(Path("study/settings.json"), experiment="s", arguments=["--pause=0", "--crash=true"])
    process = worker(file)
    output, _ = process.communicate(timeout=90)
    assert process.returncode == 1
    assert "first 3 trials all failed, the last with: error: out of memory" in output
    assert len(broken.trials) == 3


def test_a_trial_is_reclaimed_once_and_only_when_its_worker_is_gone():
    _, study, _ = begin(n_trials=4)
    trial = study.ask()
    sign_of_life(trial)
    trial.suggest_float("a.x", 0, 1)
    assert reclaim(study, lease=60) == []  # this process is alive
    host, process, started, beat = study.trials[0].user_attrs["tune:owner"]
    trial.set_user_attr("tune:owner", [host, process, f"{started}0", beat])  # another process had this number
    assert reclaim(study, lease=60) == [0]
    assert reclaim(study, lease=60) == []
    assert not give_back(study, study.trials[0])
    waiting = study.get_trials(states=(TrialState.WAITING,))
    assert [t.user_attrs[RETRY_OF] for t in waiting] == [0]
    away = study.ask()
    away.suggest_float("a.x", 0, 1)
    away.set_user_attr("tune:owner", ["elsewhere", 1, "1", time.time() - 50])
    assert reclaim(study, lease=60) == []
    assert reclaim(study, lease=40) == [away.number]
    assert study.ask().user_attrs[RETRY_OF] == 0  # a second retry is still one of the first trial
