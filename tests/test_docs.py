"""The documentation against the code: commands parse, files exist, messages are those of the code."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml
from conftest import ROOT

import callbacks
import datamodules
import lightning_modules
import tuner

DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
ROOMS = (callbacks, datamodules, lightning_modules, tuner)


def commands() -> list[str]:
    """Lines of code blocks that begin with python, joined where they go on."""
    found = []
    for page in [ROOT / "README.md", *PAGES]:
        blocks = re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
        for block in (block for language, block in blocks if not language):
            lines = re.sub(r" *\\\n *", " ", block).splitlines()
            found += [line.split("  #")[0].strip() for line in lines if re.match(r"(\w+=\w+ )?(srun )?python ", line)]
    return sorted(set(found))


def known_options() -> set[str]:
    """Every argument of a class that the command line builds, and every option written down in the sources."""
    sources = [
        path
        for room in (*(Path(r.__file__).parent for r in ROOMS), ROOT / "studies", ROOT / "benchmarks")
        for path in room.rglob("*.py")
    ]
    text = "\n".join(path.read_text() for path in [*sources, ROOT / "train.py"])
    return set(re.findall(r"^ +(\w+): ", text, re.MULTILINE)) | set(re.findall(r'"--([\w.]+)"', text))


def test_commands_name_what_exists():
    options, all_commands = known_options(), commands()
    assert len(all_commands) > 40
    wrong = []
    for command in all_commands:
        words = shlex.split(command)
        words = words[words.index("python") + 1 :]
        target = f"{words[1].replace('.', '/')}.py" if words[0] == "-m" else words[0]
        if not (ROOT / target).is_file():
            wrong.append((command, target))
        if target == "train.py" and words[1] not in (
            *("fit", "validate", "test", "predict", "audit", "landscape", "spectrum", "tune"),
        ):
            wrong.append((command, words[1]))
        for word in words:
            if word.startswith("configs/") and not (ROOT / word).is_file() and "..." not in word:
                wrong.append((command, word))
            if word.startswith("--"):
                key = word[2:].split("=")[0].rstrip("+").split(".")[-1]
                if key not in options | {
                    "help",
                    "trainer",
                    "model",
                    "data",
                    "callbacks",
                    "ckpt_path",
                    "experiment",
                } and (not word.startswith("--trainer.")):
                    wrong.append((command, word))
    assert not wrong


def test_links_and_pictures_exist():
    missing = []
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *PAGES]:
        for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
            there = target.startswith(("http", "#")) or (page.parent / target.split("#")[0]).exists()
            missing += [] if there else [(page.name, target)]
    assert not missing


def test_the_site_shows_every_page_and_picture():
    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    shown = set(re.findall(r"[\w/]+\.md", str(settings["nav"])))
    assert {page.relative_to(DOCS).as_posix() for page in PAGES} == shown
    gallery = (DOCS / "gallery.md").read_text()
    assert [path.name for path in (DOCS / "images").iterdir() if f"images/{path.name}" not in gallery] == []


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: room.__name__)
def test_the_reference_holds_every_public_class(room):
    page = (DOCS / "reference" / f"{room.__name__}.md").read_text()
    assert [name for name in room.__all__ if not re.search(rf"^::: .*\.{name}$", page, re.MULTILINE)] == []


def test_the_reference_holds_every_function():
    page = (DOCS / "reference" / "functional.md").read_text()
    names = [path.stem for path in (ROOT / "functional").glob("*.py") if path.stem != "__init__"]
    assert [name for name in names if f"::: functional.{name}\n" not in page + "\n"] == []


def test_messages_of_the_questions_page_are_those_of_the_code():
    rooms = [*(Path(room.__file__).parent for room in ROOMS), ROOT / "functional", ROOT / "studies"]
    text = (
        "\n".join(path.read_text() for room in rooms for path in room.rglob("*.py")) + (ROOT / "train.py").read_text()
    )
    text = re.sub(r'"\s*\n\s*f?"', "", text)  # messages that go over several lines
    quoted = re.findall(r"^\| `([^`]+)`", (DOCS / "faq.md").read_text(), re.MULTILINE)
    assert len(quoted) >= 30
    assert [message for message in quoted if message not in text] == []
