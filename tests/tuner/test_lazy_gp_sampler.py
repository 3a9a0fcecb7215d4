"""The sampler in Optuna: every kind of parameter and trial, reproduction, resumption, parallel processes."""

from __future__ import annotations

import multiprocessing
import time
from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from functional.matern import matern
from tuner import LazyGPSampler
from tuner.encoding import Encoding
from tuner.lazy_gp_sampler import LOST
from tuner.surrogate import Observation, Surrogate

SPACE = {"x": FloatDistribution(-1, 2), "y": FloatDistribution(1e-4, 1, log=True)}


@pytest.fixture(autouse=True)
def quiet():
    optuna.logging.set_verbosity(optuna.logging.ERROR)


def bowl(parameters):
    return (parameters["x"] - 0.7) ** 2 + (np.log10(parameters["y"]) + 2) ** 2


def run(study, trials, objective=bowl, space=SPACE):
    for _ in range(trials):
        trial = study.ask(space)
        study.tell(trial, objective(trial.params))
    return study


def points(study):
    return np.array([list(trial.params.values()) for trial in study.trials])


def journal(path="study.log", **sampler):
    return optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(path))),
        study_name="s",
        load_if_exists=True,
        sampler=LazyGPSampler(seed=0, search_space=SPACE, **sampler),
    )


@pytest.mark.parametrize("lag", ["geometric", "never", 1, 7])
def test_finds_the_minimum_with_every_lag(lag):
    study = run(optuna.create_study(sampler=LazyGPSampler(lag=lag, seed=0, search_space=SPACE)), 35)
    assert study.best_value < 1e-3
    random = run(optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0)), 35)
    assert study.best_value < 0.1 * random.best_value


def test_maximises_and_takes_the_acquisition_of_the_paper():
    sampler = LazyGPSampler(lag="never", isotropic=True, acquisition="ei", xi=0.01, seed=0, search_space=SPACE)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    assert run(study, 30, lambda p: -bowl(p)).best_value > -0.01


def test_same_seed_same_suggestions_and_another_seed_others():
    def suggested(seed):
        return points(run(optuna.create_study(sampler=LazyGPSampler(seed=seed, search_space=SPACE)), 15))

    assert np.array_equal(suggested(3), suggested(3))
    assert not np.allclose(suggested(3), suggested(4))


def test_an_interrupted_study_goes_on_as_it_would_have():
    whole = points(run(journal("whole.log"), 22))
    run(journal("parts.log"), 15)
    parts = points(run(journal("parts.log"), 7))  # another sampler, another factor, the same storage
    np.testing.assert_allclose(parts, whole, atol=1e-4)
    fits = {key: fit for key, fit in journal("parts.log").user_attrs.items() if key.startswith("lazy_gp:")}
    assert len(fits) == 3  # at 10, 13 and 17 trials, none of them twice
    assert {"length_scales", "noise", "warp"} == set().union(*fits.values())
    np.testing.assert_allclose(parts[:10], whole[:10])


def test_the_factor_equals_one_made_at_once():
    sampler = LazyGPSampler(seed=0, search_space=SPACE)
    run(optuna.create_study(sampler=sampler), 40)
    (surrogate,) = sampler._surrogates.values()
    process = surrogate.process
    process.forget_pending()
    covariance = matern(process.points, process.points, process.length_scales) + process.noise * np.eye(len(process))
    assert len(process) == 39
    np.testing.assert_allclose(process.factor.dense(), np.linalg.cholesky(covariance), atol=1e-10)


def test_mixed_parameters_are_valid_and_found():
    space = {
        "a": FloatDistribution(0, 1),
        "n": IntDistribution(1, 1000, log=True),
        "s": FloatDistribution(0, 2, step=0.25),
        "k": IntDistribution(-6, 6, step=3),
        "c": CategoricalDistribution(["relu", "tanh", None]),
        "one": IntDistribution(4, 4),
    }

    def objective(p):
        miss = (p["a"] - 0.3) ** 2 + np.log10(p["n"] / 50) ** 2 + (p["s"] - 1.25) ** 2 + (p["k"] - 3) ** 2 / 9
        return miss + (p["c"] != "tanh")

    study = run(optuna.create_study(sampler=LazyGPSampler(seed=0, search_space=space)), 60, objective, space)
    for trial in study.trials:
        for name, value in trial.params.items():
            assert space[name]._contains(space[name].to_internal_repr(value))
    best = study.best_params
    assert (best["s"], best["k"], best["c"], best["one"]) == (1.25, 3, "tanh", 4)
    assert study.best_value < 0.02


def test_encoding_round_trip_and_neighbours():
    space = {"n": IntDistribution(1, 9), "c": CategoricalDistribution(["p", "q", "r"]), "x": FloatDistribution(1, 3)}
    encoding = Encoding(space)
    for n in range(1, 10):
        parameters = {"n": n, "c": "q", "x": 1.5}
        point = encoding.encode(parameters)
        assert encoding.decode(point) == parameters
        np.testing.assert_allclose(encoding.snap(point[None])[0], point)
    around = [encoding.decode(point) for point in encoding.neighbours(encoding.encode({"n": 1, "c": "q", "x": 1.5}))]
    assert around == [{"n": 1, "c": c, "x": 1.5} for c in "pr"] + [{"n": 2, "c": "q", "x": 1.5}]
    a, b = (encoding.encode({"n": 4, "c": c, "x": 2.0}) for c in "pr")
    assert np.linalg.norm(a - b) == pytest.approx(1.0)


def test_a_small_discrete_space_is_tried_without_repetition():
    space = {"n": IntDistribution(0, 3), "c": CategoricalDistribution([True, False])}
    sampler = LazyGPSampler(seed=0, n_startup_trials=2, search_space=space)
    study = run(optuna.create_study(sampler=sampler), 9, lambda p: p["n"] + p["c"], space)
    tried = [tuple(trial.params.items()) for trial in study.trials[2:]]
    assert len(set(tried)) >= 6
    assert study.best_value == 0


def test_conditional_parameters_have_models_of_their_own():
    sampler = LazyGPSampler(seed=0)
    study = optuna.create_study(sampler=sampler)

    def objective(trial):
        if trial.suggest_categorical("net", ["cnn", "mlp"]) == "cnn":
            return 0.1 + (trial.suggest_float("width", 0, 1) - 0.2) ** 2
        return (trial.suggest_float("depth", 0, 1) - 0.8) ** 2

    study.optimize(objective, n_trials=50)
    assert study.best_params["net"] == "mlp"
    assert study.best_value < 1e-3
    assert {("net",), ("width",), ("depth",)} <= set(sampler._surrogates)


def test_a_range_that_changes_is_left_to_the_independent_sampler():
    study = optuna.create_study(sampler=LazyGPSampler(seed=0))
    with pytest.warns(UserWarning, match="range of 'x' changes"):
        study.optimize(lambda trial: trial.suggest_float("x", 0, 1 + trial.number % 2), n_trials=15)
    assert len(study.trials) == 15


def test_failed_and_nan_trials_are_not_repeated_and_lost_ones_say_nothing():
    def crashing(failed):
        study = optuna.create_study(sampler=LazyGPSampler(seed=0, search_space=SPACE, failed=failed))
        for _ in range(40):
            trial = study.ask(SPACE)
            inside = abs(trial.params["x"] - 0.7) < 0.5  # where the best values would be
            study.tell(trial, state=TrialState.FAIL) if inside else study.tell(trial, bowl(trial.params))
        return sum(trial.state == TrialState.FAIL for trial in study.trials[10:])

    assert crashing("worst") < 0.6 * crashing("ignore")
    study = optuna.create_study(sampler=LazyGPSampler(seed=0, search_space=SPACE))
    study.optimize(lambda t: float("nan") if t.suggest_float("x", -1, 2) < 0 else t.params["x"], n_trials=12)
    assert {trial.state for trial in study.trials} == {TrialState.COMPLETE, TrialState.FAIL}
    lost = [t for t in study.trials if t.state == TrialState.COMPLETE]
    sampler = LazyGPSampler(seed=0, search_space=SPACE)
    other = optuna.create_study(sampler=sampler)
    attributes = {"user_attrs": {LOST: True}, "state": TrialState.FAIL}
    other.add_trials(
        [optuna.trial.create_trial(params=t.params, distributions=t.distributions, **attributes) for t in lost]
    )
    run(other, 12)
    assert len(next(iter(sampler._surrogates.values())).observations) == 11  # of the 12, the last not read yet


def test_pruned_trials_count_with_their_last_value():
    sampler = LazyGPSampler(seed=0, search_space=SPACE)
    study = optuna.create_study(sampler=sampler)
    for number in range(20):
        trial = study.ask(SPACE)
        trial.report(bowl(trial.params), 1)
        study.tell(trial, state=TrialState.PRUNED) if number % 2 else study.tell(trial, bowl(trial.params))
    (surrogate,) = sampler._surrogates.values()
    assert len(surrogate.observations) == 19
    expected = [bowl(trial.params) for trial in study.trials[:19]]
    np.testing.assert_allclose([item.value for item in surrogate.observations], expected)


def test_constraints_are_kept():
    study = optuna.create_study(sampler=LazyGPSampler(seed=0, search_space=SPACE))
    for _ in range(20):
        trial = study.ask(SPACE)
        trial.set_constraint("right of", 1.0 - trial.params["x"])  # the minimum at x = 0.7 is forbidden
        study.tell(trial, bowl(trial.params))
    met = [t for t in study.trials if t.params["x"] >= 1]
    assert min(bowl(t.params) for t in met) == pytest.approx(0.09, abs=1e-3)  # on the edge of what is allowed
    assert sum(t.params["x"] > 0.98 for t in study.trials[10:]) >= 7


def wells(centres, widths):
    """Two wells, the second one the deeper, with bottoms at 0.2 and 0."""

    def objective(parameters):
        x = np.array([parameters[name] for name in sorted(parameters)])
        shapes = [np.exp(-((x - c) ** 2).sum() / w**2) for c, w in zip(np.array(centres), widths, strict=True)]
        return 1 - 0.8 * shapes[0] - shapes[1]

    return objective


@pytest.mark.parametrize(
    ("objective", "dimensions", "trials", "seeds"),
    [
        (wells([[0.3], [0.85]], [0.15, 0.04]), 1, 45, (1, 2, 4)),
        (wells([[0.3, 0.35], [0.8, 0.75]], [0.2, 0.12]), 2, 60, (1, 3)),
    ],
    ids=["one", "two"],
)
def test_a_searched_basin_is_left_for_a_deeper_one(objective, dimensions, trials, seeds):
    space = {f"x{i}": FloatDistribution(0, 1) for i in range(dimensions)}

    def best(seed, **options):
        sampler = LazyGPSampler(seed=seed, n_startup_trials=6, search_space=space, **options)
        return run(optuna.create_study(sampler=sampler), trials, objective, space).best_value

    staying = [best(seed, leave_basins=False) for seed in seeds]
    leaving = [best(seed) for seed in seeds]
    assert np.median(staying) == pytest.approx(0.2, abs=1e-3)  # the bottom of the first well
    assert np.median(leaving) < 0.01
    assert max(leaving) < 0.2 + 1e-3


def test_pending_trials_are_not_suggested_again_and_leave_no_trace():
    sampler = LazyGPSampler(seed=0, search_space=SPACE)
    study = run(optuna.create_study(sampler=sampler), 15)
    trials = [study.ask(SPACE) for _ in range(6)]
    spots = np.array([Encoding(SPACE).encode(trial.params) for trial in trials])
    distance = np.abs(spots[:, None] - spots[None]).max(axis=-1) + np.eye(6)
    assert distance.min() > 1e-6
    for trial in trials:
        study.tell(trial, bowl(trial.params))
    run(study, 1)
    (surrogate,) = sampler._surrogates.values()
    assert surrogate.process.observed == 21


def test_local_maxima_come_from_one_search_and_differ():
    sampler = LazyGPSampler(seed=0, search_space=SPACE, local_maxima=4)
    study = run(optuna.create_study(sampler=sampler), 12, lambda p: np.sin(6 * p["x"]) + np.cos(3 * np.log10(p["y"])))
    batch = sampler.ask_batch(study)
    spots = np.array([Encoding(SPACE).encode(trial.params) for trial in batch])
    assert len(batch) == 4
    assert (np.abs(spots[:, None] - spots[None]).max(axis=-1) + np.eye(4)).min() > 1e-2
    for trial in batch:
        study.tell(trial, 0.0)


def test_refits_follow_the_schedule():
    encoding = Encoding(SPACE)

    def fitted(lag, sizes):
        surrogate = Surrogate(encoding, lag, first_fit=10)
        return [surrogate._due(size) for size in sizes]

    assert fitted("geometric", [9, 10, 12, 13, 16, 17, 100]) == [0, 10, 10, 13, 13, 17, 87]
    assert fitted(5, [9, 10, 14, 15, 31]) == [0, 10, 10, 15, 30]
    assert fitted("never", [10, 500]) == [0, 0]


def test_absurd_values_do_not_hide_the_others():
    surrogate = Surrogate(Encoding(SPACE))
    values = [1.0, 1.2, 1.4, 1e30, float("inf"), 1.1, None]
    surrogate.update([Observation(i, np.full(2, i / 10), value) for i, value in enumerate(values)])
    assert np.isfinite(surrogate.values).all()
    assert surrogate.values.max() < 100
    np.testing.assert_allclose(surrogate.values[:3], [1.0, 1.2, 1.4])
    assert surrogate.values[6] == surrogate.values[3] == surrogate.values[4]


def test_options_are_checked():
    for wrong in ({"lag": 0}, {"lag": "often"}, {"acquisition": "ucb"}, {"xi": -1.0}, {"failed": "never"}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            LazyGPSampler(**wrong)
    study = optuna.create_study(directions=["minimize", "minimize"], sampler=LazyGPSampler())
    with pytest.raises(ValueError, match="one objective"):
        study.ask(SPACE)


def _parallel(file, trials, pause):
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = journal(file)
    while len([t for t in study.get_trials(deepcopy=False) if t.state == TrialState.COMPLETE]) < trials:
        trial = study.ask(SPACE)
        time.sleep(pause)
        study.tell(trial, bowl(trial.params))


@pytest.mark.slow
def test_parallel_processes_do_not_suggest_twins():
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_parallel, args=(str(Path("p.log").absolute()), 28, 0.02)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    spots = np.array([Encoding(SPACE).encode(t.params) for t in journal("p.log").trials])
    assert len(spots) >= 28
    assert (np.abs(spots[:, None] - spots[None]).max(axis=-1) + np.eye(len(spots))).min() > 1e-7
