r"""Do indicators from clean embeddings predict the error under corruption? A table and scatter plots over many nets.

Data are those of a config, as for ``train.py``; nets are checkpoints, weights or timm names. For example::

    python -m studies.robustness -c configs/experiments/robustness_cifar10.yaml --zoo runs/robustness_zoo \
        --nets cifar_resnet20@data/weights_cifar10/resnet20.safetensors --images 500 --out runs/robustness

``--nets`` takes ``name=run/checkpoints/best.ckpt``, ``backbone@weights.safetensors`` or ``timm:name`` (downloads). A
net that ``--out`` has figures of is not measured again. Further arguments go to the command line of ``train.py``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from callbacks.robustness_plots import draw_association
from functional.corruption_errors import (
    ALEXNET,
    association,
    mean_corruption_error,
    relative_mean_corruption_error,
)
from functional.corruptions import BENCHMARK_CORRUPTIONS, CORRUPTIONS, corrupt
from functional.robustness import indicator_intervals, robustness_indicators
from lightning_modules import ImageClassifier
from train import main

__all__ = ["associations", "measure", "run", "summarise"]

_BATCH = 250


def run(arguments: Sequence[str] | None = None) -> pd.DataFrame:
    """Measure all nets, print and write.

    Args:
        arguments: as on the command line; the process's own if None.

    Returns:
        One row per indicator: its correlations with the mean corruption error.
    """
    options, rest = _parser().parse_known_args(arguments)
    datamodule = main([*rest, "--trainer.fast_dev_run=true"], run=False).datamodule  # no run directory of its own
    nets = dict(_named(spec) for spec in options.nets)
    for record in sorted(options.zoo.glob("*/trained.txt")) if options.zoo else ():
        folder = record.parent / record.read_text(encoding="utf-8").strip()
        nets[record.parent.name] = str(folder / "checkpoints" / "last.ckpt")
    if len(nets) < 3:
        raise SystemExit(f"error: --nets and --zoo name {len(nets)} nets; a correlation needs at least 3.")
    folder = options.out / "nets"
    folder.mkdir(parents=True, exist_ok=True)
    missing = {name: spec for name, spec in nets.items() if not (folder / f"{name}.json").is_file()}
    settings = {"images": options.images, "variant": options.variant, "seed": options.seed, "extra": options.extra}
    if missing:
        images, labels = first_images(datamodule, options.images)
        classes, size = datamodule.num_classes, datamodule.image_size
        loaded = {name: load_net(spec, classes, size) for name, spec in missing.items()}
        for name, found in measure(loaded, images, labels, options).items():
            (folder / f"{name}.json").write_text(json.dumps({**settings, **found}), encoding="utf-8")
    stored = {name: json.loads((folder / f"{name}.json").read_text(encoding="utf-8")) for name in nets}
    for name, found in stored.items():
        if {key: found[key] for key in settings} != settings:
            raise SystemExit(f"error: {folder / name}.json was measured with other settings; choose another --out.")
    table = summarise(stored, options.baseline)
    correlations = associations(table)
    table.to_csv(options.out / "nets.csv", index=False)
    correlations.to_csv(options.out / "associations.csv", index=False)
    titles = {
        row["indicator"]: f"$R^2$ {row['r2']:.2f}, rank {row['spearman']:.2f}" for _, row in correlations.iterrows()
    }
    drawn = draw_association(table, list(correlations["indicator"]), "mce", titles)
    drawn.savefig(options.out / "associations.png", dpi=150)
    print(f"\n{table.drop(columns='family').round(3).to_string(index=False)}")
    print(f"\n{len(table)} nets, {options.images} images; correlations with the mCE, 95 % intervals over nets:")
    print(f"\n{correlations.round(2).to_string(index=False)}")
    print(f"\n{options.out}/nets.csv, associations.csv, associations.png")
    return correlations


def first_images(datamodule: Any, count: int) -> tuple[Tensor, Tensor]:
    """The first ``count`` images of the first test set, in [0, 1], and their labels.

    Test images that are sorted by class are drawn evenly from the whole set.
    """
    datamodule.prepare_data()
    datamodule.setup("test")
    dataset = next(iter(datamodule.test_sets.values()))
    rows = np.unique(np.linspace(0, len(dataset) - 1, min(count, len(dataset))).round().astype(int))
    samples = [dataset[int(row)] for row in rows]
    batch = {
        "image": torch.stack([sample["image"] for sample in samples]),
        "label": torch.tensor([sample["label"] for sample in samples]),
    }
    batch = datamodule.on_after_batch_transfer(batch, 0)
    return batch["image"], batch["label"]


def load_net(spec: str, num_classes: int, image_size: int) -> ImageClassifier:
    """A classifier in evaluation mode from a checkpoint, a weights file or a timm name.

    Raises:
        ValueError: if the text is none of these.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if spec.endswith(".ckpt"):
        net = ImageClassifier.load_from_checkpoint(spec, map_location=device, weights_only=True, weights=None)
    elif spec.startswith("timm:"):
        net = ImageClassifier(spec.removeprefix("timm:"), num_classes, image_size, pretrained=True)
    elif "@" in spec:
        backbone, _, weights = spec.partition("@")
        net = ImageClassifier(backbone, num_classes, image_size, weights=weights)
    else:
        raise ValueError(f"--nets {spec!r} is no .ckpt file, no backbone@weights and no timm:name.")
    return net.eval().to(device)


@torch.no_grad()
def measure(
    nets: dict[str, ImageClassifier], images: Tensor, labels: Tensor, options: argparse.Namespace
) -> dict[str, dict[str, Any]]:
    """Clean error, errors under corruption, and indicators; each image is corrupted once for all nets.

    Args:
        nets: in evaluation mode.
        images: in [0, 1], shape ``(N, 3, H, W)``.
        labels: shape ``(N,)``.
        options: ``variant``, ``seed``, ``extra`` and ``resamples``.

    Returns:
        For each net ``clean``, ``errors`` (five per corruption), ``indicators`` and ``intervals``.
    """
    corruptions = CORRUPTIONS if options.extra else BENCHMARK_CORRUPTIONS
    seeds = [options.seed + number for number in range(len(images))]
    found: dict[str, dict[str, Any]] = {}
    for name, net in nets.items():
        embeddings = torch.cat([net.embed(part.to(net.device)) for part in images.split(_BATCH)])
        found[name] = {
            "clean": _error(net, images, labels),
            "errors": {corruption: [] for corruption in corruptions},
            "indicators": robustness_indicators(embeddings, labels, seed=options.seed),
            "intervals": indicator_intervals(embeddings, labels, resamples=options.resamples, seed=options.seed),
        }
    conditions = [(corruption, severity) for corruption in corruptions for severity in range(1, 6)]
    for corruption, severity in tqdm(conditions, desc="corruptions", disable=None):
        changed = torch.cat(list(_corrupted(images, corruption, severity, seeds, options.variant)))
        for name, net in nets.items():
            found[name]["errors"][corruption].append(_error(net, changed, labels))
    return found


def summarise(stored: dict[str, dict[str, Any]], baseline: str | None = None) -> pd.DataFrame:
    """One row per net: clean error, mCE, relative mCE and indicators.

    Args:
        stored: as from :func:`measure`.
        baseline: ``alexnet`` (ImageNet-C), the name of one of the nets, or None for plain mean errors.

    Raises:
        ValueError: if there is no such baseline.
    """
    reference, reference_clean = None, 0.0
    if baseline == "alexnet":
        reference, reference_clean = {name: [error] for name, error in ALEXNET.items()}, 0.4348
    elif baseline is not None:
        if baseline not in stored:
            raise ValueError(f"--baseline {baseline!r} is neither alexnet nor one of {', '.join(stored)}.")
        reference, reference_clean = stored[baseline]["errors"], stored[baseline]["clean"]
    rows = []
    for name, found in stored.items():
        errors = {key: found["errors"][key] for key in BENCHMARK_CORRUPTIONS}
        rows.append(
            {
                "net": name,
                "family": name.partition("_")[2] if name.startswith("w") else "other",
                "clean_error": found["clean"],
                "mce": mean_corruption_error(errors, reference),
                "relative_mce": relative_mean_corruption_error(errors, found["clean"], reference, reference_clean),
                **found["indicators"],
            }
        )
    return pd.DataFrame(rows)


def associations(table: pd.DataFrame) -> pd.DataFrame:
    """Correlations of each indicator and of the clean error with the mCE over nets; partial ones given clean error."""
    indicators = [name for name in table.columns if name.startswith(("overlap", "kmeans", "multicut"))]
    rows = []
    for name in ["clean_error", *indicators]:
        if table[name].nunique() < 2:
            continue
        control = None if name == "clean_error" else table["clean_error"]
        rows.append({"indicator": name, **association(table[name], table["mce"], control)._asdict()})
    return pd.DataFrame(rows)


def _corrupted(images: Tensor, name: str, severity: int, seeds: list[int], variant: Any) -> Iterator[Tensor]:
    for start in range(0, len(images), _BATCH):
        part = slice(start, start + _BATCH)
        yield corrupt(images[part], name, severity, seeds[part], variant)


def _error(net: ImageClassifier, images: Tensor, labels: Tensor) -> float:
    wrong = [
        (net(part.to(net.device)).argmax(1).cpu() != truth).sum()
        for part, truth in zip(images.split(_BATCH), labels.cpu().split(_BATCH), strict=True)
    ]
    return float(torch.stack(wrong).sum()) / len(labels)


def _named(text: str) -> tuple[str, str]:
    """Name and place of a net: ``name=place``, or a place that names itself."""
    name, separator, place = text.partition("=")
    return (name, place) if separator else (text.partition("@")[0].removeprefix("timm:"), text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="studies.robustness",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--nets", nargs="+", default=[], help="name=file.ckpt, backbone@weights or timm:name")
    parser.add_argument("--zoo", type=Path, help="folder that studies.robustness_zoo trained into")
    parser.add_argument("--images", type=int, default=1000, help="test images, spread evenly over the set")
    parser.add_argument("--variant", choices=["imagenet", "cifar"], default="cifar", help="strengths of corruptions")
    parser.add_argument("--extra", action="store_true", help="also measure the four extra corruptions")
    parser.add_argument("--baseline", help="alexnet or the name of a net, by whose errors the mCE is divided")
    parser.add_argument(
        "--resamples", type=int, default=20, help="resampled image sets behind the indicators' intervals"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/robustness"), help="folder for tables and pictures")
    return parser


if __name__ == "__main__":
    run()
