"""Imports go down, never up, never sideways between wings."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from conftest import ROOT

ALLOWED = {
    "functional": set(),
    "lightning_modules": {"functional"},
    "datamodules": {"functional"},
    "callbacks": {"functional"},
    "tuner": {"functional"},
}
OUTSIDE_FUNCTIONAL = {"lightning", "torchvision", "kornia", "timm", "PIL", "pandas", "matplotlib", "torchmetrics"}


def imported(file: Path) -> set[str]:
    """Top-level packages that a file imports."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            names.add(str(node.module).split(".")[0])
    return names


@pytest.mark.parametrize("room", ALLOWED)
def test_rooms_import_downwards_only(room):
    files = list((ROOT / room).rglob("*.py"))
    assert files
    forbidden = ({*ALLOWED, "train", "demo", "studies", "tuner"} - ALLOWED[room] - {room}) | (
        OUTSIDE_FUNCTIONAL if room == "functional" else set()
    )
    wrong = {str(file.relative_to(ROOT)): imported(file) & forbidden for file in files}
    assert not {file: names for file, names in wrong.items() if names}


def test_floor_check_sees_an_upward_import(tmp_path):
    file = tmp_path / "bad.py"
    file.write_text("def f():\n    from callbacks.outputs import log_figure\n    import kornia.augmentation as K\n")
    assert imported(file) == {"callbacks", "kornia"}
