"""The worked examples of CONTRIBUTING.md run as they are printed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from conftest import ROOT

from train import main

TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def blocks(language: str) -> dict[str, str]:
    """Fenced blocks whose first line is a comment that names a file."""
    found = re.findall(rf"```{language}\n# (\S+)\n(.*?)```", TEXT, re.DOTALL)
    return dict(found)


def test_examples_are_of_a_readable_length():
    for name, code in blocks("python").items():
        assert 15 <= len(code.splitlines()) <= 40, name


@pytest.mark.parametrize("config", sorted(blocks("yaml")))
def test_example_runs(config, monkeypatch, real_fake_root, tmp_path):
    for name, code in blocks("python").items():
        Path(name).write_text(code)
    Path(config).write_text(blocks("yaml")[config])
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("DATA_ROOT", str(real_fake_root))
    cli = main(["fit", "-c", config, "--trainer.max_epochs=1", "--trainer.accelerator=cpu", "--trainer.devices=1"])
    assert cli.trainer.current_epoch == 1
    for name in blocks("python"):
        __import__(Path(name).stem)  # every example is used by some config, and imports


def test_every_example_is_used_by_a_config():
    configs = "\n".join(blocks("yaml").values())
    assert len(blocks("python")) == 3
    for name in blocks("python"):
        assert f"{Path(name).stem}." in configs
