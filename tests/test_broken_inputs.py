"""Broken input of every kind ends in advice that names it and its mend, and costs the user no file."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from broken_inputs import OF_FOLDERS, OF_IMAGES, OF_MANIFESTS, User
from broken_settings import OF_CHECKPOINTS, OF_CONFIGS, OF_STUDIES, OF_WEIGHTS
from broken_tables import OF_FEATURES, OF_TABLES

from train import TrueLightCLI, console, main

SUBCOMMANDS = TrueLightCLI.subcommands()

CORPUS = [
    *(*OF_IMAGES, *OF_FOLDERS, *OF_MANIFESTS, *OF_TABLES, *OF_FEATURES),
    *(*OF_CONFIGS, *OF_CHECKPOINTS, *OF_WEIGHTS, *OF_STUDIES),
]


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory):
    """Run directory of a detector that was trained for one step."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        return folder / main(User(folder).fit()).run_directory


def listing(folder: Path) -> dict[str, bytes]:
    """Names of all files, folders and links, and what the files hold."""
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b"" for path in folder.rglob("*")}


@pytest.mark.parametrize("broken", CORPUS, ids=lambda broken: broken.name)
def test_broken_input_ends_in_advice_and_loses_nothing(broken, tmp_path, finished_run, monkeypatch, capsys):
    user = User(tmp_path, finished_run)
    arguments = broken.make(user)
    before = listing(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train.py", *arguments])
    # Parsers of subcommands that are not called take half of the time.
    called = arguments[0] if arguments[0] in SUBCOMMANDS else "fit"
    monkeypatch.setattr(TrueLightCLI, "subcommands", staticmethod(lambda: {called: SUBCOMMANDS[called]}))
    status: object = 0
    try:
        console()
    except SystemExit as stop:
        status = stop.code
    said = capsys.readouterr().err + (status if isinstance(status, str) else "")
    if broken.report is None:
        assert status not in (0, None), said
    else:
        assert status in (0, None), said
        (file,) = tmp_path.rglob(broken.report)
        said = file.read_text(errors="surrogateescape")
    assert not [part for part in broken.says if part not in said], said
    assert not [part for part in broken.silent_about if part in said], said
    assert "Traceback" not in said
    after = listing(tmp_path)
    assert before.keys() <= after.keys()
    assert not [name for name, content in before.items() if not after[name].startswith(content)]  # a study may grow
    assert "executed" not in after
    new = {name for name in after.keys() - before.keys() if name.startswith("runs/")}
    if broken.report is None:
        assert not {name for name in new if (tmp_path / name).is_file()}, new
