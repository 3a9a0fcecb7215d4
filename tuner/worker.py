"""Work on a study: ask, launch a fit, report, tell, until the study is done.

``train.py tune`` starts as many of these as it is told. More may be started by hand, on other machines too, if they see
the same files::

    python -m tuner.worker runs/mnist/study/settings.json
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState

from tuner.launch import Process, start_fit, start_forked_fit
from tuner.lazy_gp_sampler import LOST
from tuner.leases import RETRY_OF, give_back, reclaim, sign_of_life
from tuner.settings import TuneSettings, open_study
from tuner.space import suggest
from tuner.trial_channel import CHANNEL

__all__ = ["Worker", "counted"]

_POLL = 0.1
_FAILURES = 3


class Worker:
    """One trial after the other.

    Args:
        settings: of the study.
        study: to work on.
        folder: of the study; trials have folders of their own in it.
        experiment: trials are fits of ``<experiment>/trials/<number>``.
        arguments: of the fit, as on the command line.
    """

    def __init__(
        self, settings: TuneSettings, study: optuna.Study, folder: Path, experiment: str, arguments: Sequence[str]
    ) -> None:
        self.settings, self.study, self.folder = settings, study, folder
        self.experiment, self.arguments = experiment, list(arguments)
        self._end = time.monotonic() + 3600 * settings.hours if settings.hours is not None else None
        self._interrupted = False

    def interrupt(self, *_: object) -> None:
        """Handler of a signal to stop.

        It also leaves a note: what is raised while Python forks a trial is printed and lost.

        Raises:
            KeyboardInterrupt: always.
        """
        self._interrupted = True
        raise KeyboardInterrupt

    def run(self) -> None:
        """Work until the study is done.

        Raises:
            RuntimeError: if the first trials all fail.
        """
        while self._end is None or time.monotonic() < self._end:
            for number in reclaim(self.study, self.settings.lease):
                print(f"Trial {number} was lost with its process; its parameters are queued again.", flush=True)
            self._stop_if_nothing_works()
            if self._settled() >= self._wanted():
                break
            if self._settled() + self._running() >= self._wanted():  # others are on the last ones; they may vanish
                time.sleep(1.0)
                continue
            trial = self.study.ask()
            sign_of_life(trial)
            earlier = sum(other.number < trial.number for other in self._others(TrialState.RUNNING))
            if self._settled() + earlier >= self._wanted():  # another worker was faster
                give_back(self.study, self._frozen(trial))
                continue
            try:
                self.work_on(trial)
            except BaseException:  # interrupted: the parameters are tried again when the study goes on
                give_back(self.study, self._frozen(trial))
                raise

    def work_on(self, trial: Trial) -> None:
        """Launch a fit, hand its reports on, and tell how it ended."""
        values = suggest(trial, self.settings.parameters)
        number = trial.user_attrs.get(RETRY_OF, trial.number)
        channel = self.folder / "trials" / f"{number:04d}"
        channel.mkdir(parents=True, exist_ok=True)
        (channel / "stop").unlink(missing_ok=True)
        if number == trial.number:  # a fit that is resumed reports further epochs only
            (channel / "reports.jsonl").unlink(missing_ok=True)
        process = self._launch(values, number, channel, again=number != trial.number)
        try:
            reports, stopped = self._follow(trial, process, channel)
        finally:
            process.end()
        if process.poll() != 0:
            trial.set_user_attr("error", _last_line(channel / "log.txt"))
            self.study.tell(trial, state=TrialState.FAIL)
        elif stopped:
            self.study.tell(trial, state=TrialState.PRUNED)
        elif not reports:
            trial.set_user_attr("error", f"{self.settings.monitor} was never reported")
            self.study.tell(trial, state=TrialState.FAIL)
        else:
            better = min if self.settings.direction == "minimize" else max
            chosen = better(reports) if self.settings.value == "best" else reports[-1]
            self.study.tell(trial, chosen)

    def _launch(self, values: Mapping[str, Any], number: int, channel: Path, again: bool) -> Process:
        arguments = [*self.arguments, *(f"--{key}={_text(value)}" for key, value in values.items())]
        arguments += [f"--experiment={self.experiment}/trials/{number:04d}", "--trainer.enable_progress_bar=false"]
        if again:
            arguments.append("--ckpt_path=last")
        environment = {
            CHANNEL: json.dumps({"folder": str(channel.absolute()), "monitor": self.settings.monitor}),
            "WANDB_RUN_GROUP": self.study.study_name,
        }
        start = start_forked_fit if self.settings.preload else start_fit
        return start(arguments, environment, channel / "log.txt")

    def _follow(self, trial: Trial, process: Process, channel: Path) -> tuple[list[float], bool]:
        """Reports until the fit ends, and whether it was asked to stop."""
        reports: list[float] = []
        stopped, beat, running = False, time.monotonic(), True
        while running:
            if self._interrupted:
                raise KeyboardInterrupt
            running = process.poll() is None
            for step, value in _read_reports(channel)[len(reports) :]:
                reports.append(value)
                trial.report(value, step)
                if not stopped and trial.should_prune():
                    (channel / "stop").touch()
                    stopped = True
            if time.monotonic() - beat > self.settings.lease / 4:
                sign_of_life(trial)
                beat = time.monotonic()
            if running:
                time.sleep(_POLL)
        return [value for value in reports if value == value], stopped

    def _others(self, *states: TrialState) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False, states=states)

    def _settled(self) -> int:
        return len(counted(self.study))

    def _running(self) -> int:
        return len(self._others(TrialState.RUNNING))

    def _wanted(self) -> float:
        return float("inf") if self.settings.n_trials is None else self.settings.n_trials

    def _frozen(self, trial: Trial) -> FrozenTrial:
        return next(t for t in self.study.get_trials(deepcopy=False) if t.number == trial.number)

    def _stop_if_nothing_works(self) -> None:
        settled = counted(self.study)
        if len(settled) >= _FAILURES and all(trial.state == TrialState.FAIL for trial in settled):
            reason = settled[-1].user_attrs.get("error", "")
            raise RuntimeError(
                f"The first {len(settled)} trials all failed, the last with: {reason}. "
                f"See {self.folder}/trials/*/log.txt."
            )


def counted(study: optuna.Study) -> list[FrozenTrial]:
    """Finished trials, those whose process vanished left out."""
    states = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
    return [t for t in study.get_trials(deepcopy=False, states=states) if LOST not in t.user_attrs]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _read_reports(channel: Path) -> list[tuple[int, float]]:
    """Whole lines of the file."""
    try:
        text = (channel / "reports.jsonl").read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    lines = text[: text.rfind("\n") + 1].splitlines()
    return [(int(step), float(value)) for step, value in map(json.loads, lines)]


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() if log.is_file() else []
    return lines[-1][:300] if lines else "no output"


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="tuner.worker", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("settings", type=Path, help="settings.json of the study")
    file = parser.parse_args().settings
    content = json.loads(file.read_text(encoding="utf-8"))
    settings = TuneSettings.from_dict(content["tune"])
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sys.path.insert(0, os.getcwd())
    study = open_study(settings, file.parent, content["experiment"])
    worker = Worker(settings, study, file.parent, content["experiment"], content["arguments"])
    for number in (signal.SIGINT, signal.SIGTERM):  # the first is ignored by what a shell started in the background
        signal.signal(number, worker.interrupt)
    try:
        worker.run()
    except KeyboardInterrupt:
        sys.exit(130)
    except (RuntimeError, ValueError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
