"""Who works on a trial, and trials whose worker is gone."""

from __future__ import annotations

import os
import socket
import time
from typing import Any

from optuna import Study
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, Trial, TrialState

from tuner.lazy_gp_sampler import LOST

__all__ = ["RETRY_OF", "give_back", "reclaim", "sign_of_life"]

RETRY_OF = "tune:retry_of"
"""User attribute: number of the trial that this one does again."""
_OWNER = "tune:owner"


def sign_of_life(trial: Trial) -> None:
    """Say that this process works on the trial."""
    trial.set_user_attr(_OWNER, [socket.gethostname(), os.getpid(), _started(os.getpid()), time.time()])


def reclaim(study: Study, lease: float) -> list[int]:
    """Fail running trials whose worker is gone and queue their parameters again; each is reclaimed by one process.

    Args:
        study: with its storage.
        lease: seconds after which silence means that a worker elsewhere is gone.

    Returns:
        Numbers of the trials.
    """
    running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    return [trial.number for trial in running if _gone(trial, lease) and give_back(study, trial)]


def give_back(study: Study, trial: FrozenTrial) -> bool:
    """Fail a trial for no fault of its parameters and queue these again; False if it is finished already."""
    try:
        study._storage.set_trial_user_attr(trial._trial_id, LOST, True)
        if not study._storage.set_trial_state_values(trial._trial_id, TrialState.FAIL):
            return False
    except UpdateFinishedTrialError:
        return False
    parameters = trial.params or trial.system_attrs.get("fixed_params")  # the latter of a queued trial not begun yet
    if parameters:
        study.enqueue_trial(parameters, user_attrs={RETRY_OF: trial.user_attrs.get(RETRY_OF, trial.number)})
    return True


def _gone(trial: FrozenTrial, lease: float) -> bool:
    owner: Any = trial.user_attrs.get(_OWNER)
    if owner is None:  # its worker has not signed yet, or vanished before
        begun = trial.datetime_start
        return begun is not None and time.time() - begun.timestamp() > lease
    host, process, started, beat = owner
    if host == socket.gethostname():
        return _started(process) != started
    return time.time() - beat > lease


def _started(process: int) -> str | None:
    """What tells a process from a later one with the same number; None if there is no such process."""
    try:
        with open(f"/proc/{process}/stat", encoding="ascii", errors="replace") as file:
            after = file.read().rpartition(")")[2].split()
        return None if after[0] in "ZX" else after[19]
    except FileNotFoundError:
        if os.path.isdir("/proc/self"):
            return None
    try:  # no /proc: the number alone
        os.kill(process, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return "alive"
