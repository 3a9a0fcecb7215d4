"""Train the nets of the robustness study: two widths under eight recipes, one after the other.

Model and data are those of a config, as for ``train.py``. For example::

    python -m studies.robustness_zoo -c configs/experiments/robustness_cifar10.yaml --into runs/zoo

A net that is there already is not trained again. Further arguments go to the command line of
``train.py``.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from train import main

__all__ = ["RECIPES", "run"]

_AUGMENTATION = "--data.augmentation"
RECIPES: dict[str, list[str]] = {
    "none": [],
    "flip": [f"{_AUGMENTATION}={{padding: 4, flip: 0.5}}"],
    "noise": [f"{_AUGMENTATION}={{flip: 0.0, noise: 0.1}}"],
    "blur": [f"{_AUGMENTATION}={{flip: 0.0, blur: 0.5}}"],
    "colour": [f"{_AUGMENTATION}={{flip: 0.0, brightness: 0.5}}"],
    "mixup": ["--model.mixup_alpha=1.0"],
    "smoothing": ["--model.label_smoothing=0.1"],
    "adversarial": ["--trainer.callbacks+=AdversarialTraining"],
}
"""Arguments that each recipe adds to the config; the config itself augments nothing."""


def run(arguments: Sequence[str] | None = None) -> dict[str, Path]:
    """Train what is missing.

    Args:
        arguments: as on the command line; the process's own if None.

    Returns:
        Name of each net, ``w<width>_<recipe>``, and its checkpoint.
    """
    parser = argparse.ArgumentParser(
        prog="studies.robustness_zoo",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--into", type=Path, default=Path("runs/robustness_zoo"), help="folder of all nets")
    parser.add_argument("--widths", type=int, nargs="+", default=[4, 8], help="values of backbone_kwargs.width")
    parser.add_argument("--recipes", nargs="+", choices=list(RECIPES), default=list(RECIPES))
    options, rest = parser.parse_known_args(arguments)
    trained = {}
    for recipe in options.recipes:  # so that an interrupted study has all widths of what it has
        for width in options.widths:
            name = f"w{width}_{recipe}"
            record = options.into / name / "trained.txt"  # an interrupted fit leaves a last.ckpt, too
            if not record.is_file():
                own = [f"--experiment={name}", f"--runs={options.into}", f"--model.backbone_kwargs={{width: {width}}}"]
                cli = main(["fit", *rest, *own, *RECIPES[recipe]])
                record.parent.mkdir(parents=True, exist_ok=True)
                record.write_text(f"{Path(str(cli.run_directory)).name}\n", encoding="utf-8")
            run_name = record.read_text(encoding="utf-8").strip()
            trained[name] = options.into / name / run_name / "checkpoints" / "last.ckpt"
            print(f"{name}: {trained[name]}", flush=True)
    return trained


if __name__ == "__main__":
    run()
