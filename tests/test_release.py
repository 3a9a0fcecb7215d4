"""What is installed: a wheel with every module and config, that runs far away from the sources, and one version."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from conftest import ROOT

IGNORED = shutil.ignore_patterns(".*", "runs", "build", "dist", "site", "*.egg-info", "__pycache__", "wandb")
PACKAGES = ("callbacks", "datamodules", "functional", "lightning_modules", "studies", "tuner")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy, so that nothing is left among the sources."""
    folder = tmp_path_factory.mktemp("wheel")
    shutil.copytree(ROOT, folder / "sources", ignore=IGNORED)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, folder / "sources"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_holds_every_module_and_config(wheel):
    held = set(zipfile.ZipFile(wheel).namelist())
    wanted = {path for room in PACKAGES for path in (ROOT / room).rglob("*.py")}
    wanted |= {*(ROOT / "configs").rglob("*.yaml"), *(ROOT / "callbacks").glob("*.html"), ROOT / "train.py"}
    assert len(wanted) > 200
    assert not {path.relative_to(ROOT).as_posix() for path in wanted} - held
    assert not [name for name in held if name.startswith(("tests/", "benchmarks/", "docs/"))]


def test_an_installed_copy_knows_its_configs(wheel, tmp_path):
    """From any folder; a file of that name in the folder itself goes first."""
    zipfile.ZipFile(wheel).extractall(tmp_path / "installed")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    command = [sys.executable, "-c", "from train import console; console()", "fit", "-c", "configs/demo/raw.yaml"]
    command += ["-c", "configs/trainer/cpu.yaml", "--data.root=world", "--print_config"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "installed")}
    done = subprocess.run(command, check=False, cwd=elsewhere, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "class_path: lightning_modules.ImageDetector" in done.stdout
    assert "accelerator: cpu" in done.stdout


def test_version_changelog_and_citation_agree():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    first = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert first is not None
    assert first[1] == version
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
