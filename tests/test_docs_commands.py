"""Every `train.py` command of the documentation goes through the parser, with files that stand for the reader's own."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

import tuner.command
from train import TrueLightCLI, main

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FRAGMENT = "my_fragment.yaml"  # stands for files that a command before has written
READERS = (  # what a reader puts in, and what stands for it here
    (r"runs/\S+/best\.yaml|audit_fix\.yaml", FRAGMENT),
    (r"(?:runs|\.\.\.)/\S*config\.yaml", "configs/experiments/faces_raw.yaml"),
    (r"\bCONFIG\b", "configs/experiments/spectral_defense_detector.yaml"),
    (r"\bSPACE\.yaml", "configs/tuner/lenet_mnist.yaml"),
    (r"\b(?:RUN|DIR)\b", "folder"),
    (r"\bN\b", "0"),
)
OWN_CLASSES = "from lightning_modules import ImageDetector\n\n\nclass {name}(ImageDetector):\n    pass\n"


def _commands() -> list[str]:
    """What stands after ``train.py`` in blocks and in running text, each once; those that are cut short left out."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        blocks = re.findall(r"^```(\w*)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
        shell = [block for language, block in blocks if not language]
        lines = [line for block in shell for line in re.sub(r" *\\\n *", " ", block).splitlines()]
        spans = re.findall(r"`(python train\.py [^`]+)`", re.sub(r"^```.*?^```", "", text, flags=re.M | re.DOTALL))
        for line in [*lines, *spans]:
            command = re.search(r"\bpython train\.py\s+(\S.*?)(?:\s{2,}#.*)?$", " ".join(line.split("\n")))
            if command and not re.search(r"(?<!\S)\.\.\.(?!\S)", command[1]) and " " in command[1].strip():
                found.append(" ".join(command[1].split()))
    # a config alone is parsed by test_configs.py; commands that differ in the reader's folders only are one
    longer = [command for command in sorted(set(found)) if not re.fullmatch(r"\w+ -c configs/\S+", command)]
    return list({tuple(_arguments(command)): command for command in longer}.values())


@pytest.fixture
def readers_folder(tmp_path: Path) -> Path:
    """A working directory with the configs of the project and the files that a reader would have."""
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    (tmp_path / FRAGMENT).write_text("trainer: {max_epochs: 1}\n")
    return tmp_path


def _arguments(command: str) -> list[str]:
    own = "tune_lenet_mnist" if command.startswith("tune") else "faces_raw"
    command = re.sub(r"\bYOUR\.yaml", f"configs/experiments/{own}.yaml", command)
    for pattern, stand_in in READERS:
        command = re.sub(pattern, stand_in, command)
    return shlex.split(command)


@pytest.fixture(scope="module")
def parser() -> Any:
    """The parser of all subcommands, built once: that takes longer than to parse."""
    kept: list[Any] = []

    def keep(_: TrueLightCLI, parser: Any, args: Any) -> None:
        kept.append(parser)
        raise InterruptedError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrueLightCLI, "parse_arguments", keep)
        with pytest.raises(InterruptedError):
            main(["fit"])
    return kept[0]


@pytest.mark.parametrize("command", _commands())
def test_command_is_accepted(command, parser, readers_folder, monkeypatch):
    monkeypatch.syspath_prepend(str(readers_folder))
    own_class = re.search(r"\b(my_\w+)\.([A-Z]\w+)", command)
    if own_class:
        file, name = f"{own_class[1]}_{own_class[2].lower()}", own_class[2]  # a module is imported once in a process
        (readers_folder / f"{file}.py").write_text(OWN_CLASSES.format(name=name))
        command = command.replace(own_class[0], f"{file}.{name}")
    arguments = _arguments(command)
    if arguments[0] != "tune":
        assert parser.parse_args(arguments).subcommand == arguments[0]
    elif "--help" not in arguments:

        def resolve(trial: list[str]) -> str:
            parser.parse_args(["fit", *trial])
            return "experiment: searched\nruns: runs\n"

        def stop(*_: Any) -> None:
            raise InterruptedError  # all is checked, and nothing has run

        monkeypatch.setattr(tuner.command, "open_study", stop)
        with pytest.raises(InterruptedError):
            tuner.command.tune(arguments[1:], resolve)


def test_the_pages_have_commands():
    assert len(_commands()) >= 30
