"""The search space of a study, from the ``tune.space`` of a config."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import Trial

__all__ = ["Parameter", "ends", "parse_space", "suggest"]

_KEYS = {
    "float": {"low", "high", "log", "step"},
    "int": {"low", "high", "log", "step"},
    "categorical": {"choices"},
}


@dataclass
class Parameter:
    """A key of the config, what it may be, and the values of other keys for which it counts."""

    key: str
    distribution: BaseDistribution
    when: dict[str, list[Any]] = field(default_factory=dict)


def parse_space(space: Mapping[str, Mapping[str, Any]]) -> list[Parameter]:
    """Parameters, those that others depend on first.

    Args:
        space: by dotted config key, ``{type: float | int, low:, high:, log:, step:}`` or
            ``{type: categorical, choices: [...]}``, each with ``when: {other.key: [values]}`` if it counts only then.

    Raises:
        ValueError: if an entry is not understood; the message names it.
    """
    if not isinstance(space, Mapping):
        raise ValueError(f"tune.space={space!r} must be a mapping of dotted keys, each with its type and range.")
    if not space:
        raise ValueError("tune.space is empty: name at least one key, e.g. model.init_args.optimizer.init_args.lr.")
    parameters = [_parameter(key, entry) for key, entry in space.items()]
    known = {parameter.key for parameter in parameters}
    ordered: list[Parameter] = []
    while len(ordered) < len(parameters):
        done = {parameter.key for parameter in ordered}
        ready = [p for p in parameters if p.key not in done and p.when.keys() <= done]
        if not ready:
            left = next(p for p in parameters if p.key not in done)
            missing = ", ".join(sorted(left.when.keys() - known)) or "itself, in a circle"
            raise ValueError(f"tune.space.{left.key}.when depends on {missing}; name keys of tune.space.")
        ordered += ready
    return ordered


def suggest(trial: Trial, parameters: list[Parameter]) -> dict[str, Any]:
    """Values of all parameters that count in a trial."""
    values: dict[str, Any] = {}
    for parameter in parameters:
        if any(values.get(key) not in allowed for key, allowed in parameter.when.items()):
            continue
        key, it = parameter.key, parameter.distribution
        if isinstance(it, CategoricalDistribution):
            values[key] = trial.suggest_categorical(key, it.choices)
        elif isinstance(it, IntDistribution):
            values[key] = trial.suggest_int(key, it.low, it.high, step=it.step, log=it.log)
        elif isinstance(it, FloatDistribution):
            values[key] = trial.suggest_float(key, it.low, it.high, step=it.step, log=it.log)
    return values


def ends(parameters: list[Parameter]) -> list[dict[str, Any]]:
    """Settings that between them hold both ends of every range and every choice."""
    values = []
    for parameter in parameters:
        it = parameter.distribution
        values.append(list(it.choices) if isinstance(it, CategoricalDistribution) else [it.low, it.high])  # type: ignore[attr-defined]
    return [
        {p.key: options[index % len(options)] for p, options in zip(parameters, values, strict=True)}
        for index in range(max(map(len, values)))
    ]


def _parameter(key: str, entry: Any) -> Parameter:
    if not isinstance(entry, Mapping) or entry.get("type") not in _KEYS:
        raise ValueError(f"tune.space.{key} needs a type, one of {', '.join(_KEYS)}; got {entry!r}.")
    kind = str(entry["type"])
    options = {name: value for name, value in entry.items() if name not in ("type", "when")}
    if unknown := options.keys() - _KEYS[kind]:
        raise ValueError(f"tune.space.{key} has no option {sorted(unknown)[0]!r}; {kind} has {sorted(_KEYS[kind])}.")
    for name in options.keys() & {"low", "high", "step"}:
        if options[name] is not None and not isinstance(options[name], int | float):
            raise ValueError(f"tune.space.{key}: {name}={options[name]!r} must be a number.")
    try:
        distribution: BaseDistribution
        if kind == "categorical":
            distribution = CategoricalDistribution(options["choices"])
        elif kind == "int":
            distribution = IntDistribution(**{"step": 1, **options})
        else:
            distribution = FloatDistribution(**options)
    except KeyError as error:
        raise ValueError(f"tune.space.{key} lacks {error.args[0]!r}.") from error
    except (TypeError, ValueError) as error:
        raise ValueError(f"tune.space.{key}: {error}") from error
    when = {name: value if isinstance(value, list) else [value] for name, value in (entry.get("when") or {}).items()}
    return Parameter(key, distribution, when)
