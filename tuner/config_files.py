"""Configs on the command line are read once before anything is made of them, so that a fault names its file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

__all__ = ["check_configs", "read_config"]


def read_config(file: Path) -> dict[str, Any]:
    """Keys and values of a YAML file, interpolations as they are written.

    Raises:
        ValueError: if there is no such file, or it is no UTF-8, no YAML, or no mapping; the message names file and
            line and says what to write.
    """
    if not file.is_file():
        state = "is a folder" if file.is_dir() else "does not exist"
        raise ValueError(f"--config: there is no file {str(file)!r} (it {state}); give a YAML file.")
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8.") from error
    except yaml.YAMLError as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None) or str(error)
        where = f"{file}, line {mark.line + 1}" if mark else str(file)
        mend = "indent with spaces, never with tabs" if "\\t" in problem else "check indentation, colons and brackets"
        raise ValueError(f"{where}: no valid YAML ({' '.join(problem.split())}); {mend}.") from error
    if content is not None and not isinstance(content, dict):
        raise ValueError(
            f"{file} holds a {type(content).__name__}, no keys such as model, data and trainer; write `key: value`."
        )
    return content or {}


def check_configs(arguments: Sequence[str]) -> None:
    """Read all configs that a command line names.

    Raises:
        ValueError: as for :func:`read_config`.
    """
    for value in _named(arguments):
        if Path(value).exists() or not set(value) & set("{}:\n"):  # else YAML given in place of a file
            read_config(Path(value))


def _named(arguments: Sequence[str]) -> Iterator[str]:
    items = iter(arguments)
    for item in items:
        name, equals, value = item.partition("=")
        if name in ("-c", "--config"):
            yield value if equals else next(items, "")
