"""SpectralDefense end to end: attack a classifier, tell attacked images from clean ones, attack the detector too.

Victim and data are those of a config, as for ``train.py``. For example::

    python -m studies.spectral_defense attack -c configs/experiments/spectral_defense_victim.yaml --pairs 1000
    python -m studies.spectral_defense table -c configs/experiments/spectral_defense_victim.yaml --seeds 3
    python -m studies.spectral_defense adaptive -c configs/experiments/spectral_defense_victim.yaml
    python -m studies.spectral_defense picture -c configs/experiments/spectral_defense_victim.yaml

Further arguments go to the command line of ``train.py``.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import yaml
from torch import Tensor
from tqdm import tqdm

from callbacks.adversarial_plots import AttackedExample, draw_attacks, draw_transfer
from datamodules import ImageDataModule
from datamodules.adversarial_pairs import PairFolder, Pairs, load_reference, save_reference
from lightning_modules import AdversarialDetector, ImageClassifier
from lightning_modules.adversarial_protocol import adaptive_rows, fit_detector, pair_features, transfer_rows
from lightning_modules.attacks import ATTACKS, AdaptivePGD, Attack
from lightning_modules.victim_features import FEATURES
from train import main

__all__ = ["attack_data", "run", "victim_fingerprint"]

METRICS = ["auroc", "accuracy", "tpr", "tnr", "precision"]
FEATURE_CHOICES = [*FEATURES, "lid_minibatch"]


def run(arguments: Sequence[str] | None = None) -> pd.DataFrame:
    """Parse and run one of the commands.

    Args:
        arguments: as on the command line; the process's own if None.

    Returns:
        The table that was printed and written.
    """
    options, rest = _parser().parse_known_args(arguments)
    victim, data, folder = _victim(rest)
    table: pd.DataFrame = options.command(victim, data, folder, options)
    table.to_csv(folder / f"{options.command.__name__}.csv", index=False)
    print(f"\n{folder}/{options.command.__name__}.csv")
    return table


def attack(victim: ImageClassifier, data: ImageDataModule, folder: Path, options: argparse.Namespace) -> pd.DataFrame:
    """Attack correctly classified test images; keep the pairs, and training images for the baselines."""
    rows = []
    for spec in options.attacks:
        settings = {"steps": options.steps} if options.steps else {}
        chosen = Attack.parse(spec, binary_search_steps=options.binary_search_steps, **settings)
        rows.append(attack_data(victim, data, chosen, options.pairs_in, options.pairs, options.seed))
    data.setup("fit")
    order = np.random.default_rng(options.seed).permutation(len(data.train_set))  # type: ignore[arg-type]
    samples = [data.train_set[int(index)] for index in order[: options.reference]]
    images = torch.stack([sample["image"] for sample in samples]).numpy()
    save_reference(options.pairs_in, images, np.array([sample["label"] for sample in samples], np.int64))
    table = pd.DataFrame(rows)
    print(f"\n{table.round(4).to_string(index=False)}\n\npairs: {options.pairs_in}")
    return table


def table(victim: ImageClassifier, data: ImageDataModule, folder: Path, options: argparse.Namespace) -> pd.DataFrame:
    """Train on each attack, test on all, for several splits: one attack, transfer, sweep over epsilon."""
    sources = [("", victim, options.pairs_in), *((f"{path.name}/", victim, path) for path in options.also)]
    if options.other:
        config, pairs = options.other
        other, _, _ = _victim(["-c", config, "--trainer.fast_dev_run=true"])  # without a run directory of its own
        sources.append((f"{Path(pairs).name}/", other, Path(pairs)))
    pairs = {
        f"{prefix}{name}": (_read(path / name, owner if path not in options.also else None, options.pairs), owner)
        for prefix, owner, path in sources
        for name in (options.attacks if not prefix else _attacks_in(path, options.attacks))
    }
    trained_on = options.train_on or options.attacks
    rows = []
    for name in options.features:
        detectors = {id(owner): _detector(owner, name, path, options) for _, owner, path in sources}
        features = {key: _features(detectors[id(owner)], name, chosen) for key, (chosen, owner) in pairs.items()}
        for seed in tqdm(_seeds(options), desc=name, unit="split", disable=None):
            parts = {key: chosen.parts(seed) for key, (chosen, _) in pairs.items()}
            found = transfer_rows(detectors[id(victim)], features, parts, trained_on)
            rows += [{"features": name, "seed": seed, **row} for row in found]
        print(f"\n{name}\n{_summary([row for row in rows if row['features'] == name])}", flush=True)
        pd.DataFrame(rows).to_csv(folder / "table.csv", index=False)
    draw_transfer(pd.DataFrame(rows)).savefig(folder / "transfer.png", dpi=150)
    return pd.DataFrame(rows)


def adaptive(victim: ImageClassifier, data: ImageDataModule, folder: Path, options: argparse.Namespace) -> pd.DataFrame:
    """Attack victim and detector at once: how often does an attacker succeed who knows the detector?"""
    rows = []
    for name in options.features:
        for trained_on in options.attacks:
            for seed in _seeds(options):
                detector, pairs, parts = _fitted(victim, name, trained_on, seed, options)
                chosen = pairs[parts["test"]][: options.images]
                settings = AdaptivePGD(options.epsilon, options.steps)
                images, labels = torch.from_numpy(chosen.image), torch.from_numpy(chosen.label)
                found = adaptive_rows(detector, images, labels, options.weights, settings, seed)
                common = {"features": name, "trained_on": trained_on, "seed": seed, "images": len(chosen)}
                rows += [{**common, **row} for row in found]
                pd.DataFrame(rows).to_csv(folder / "adaptive.csv", index=False)
    result = pd.DataFrame(rows)
    keys = ["features", "trained_on", "weight"]
    shares = ["fooled", "evaded", "success", "success_at_fpr"]
    means = result.groupby(keys, dropna=False, sort=False)[shares].agg(["mean", "std"])
    print(f"\nShares over {options.seeds} splits; weight NaN: the best of all for each image")
    print(f"\n{means.round(3).to_string()}")
    return result


def picture(victim: ImageClassifier, data: ImageDataModule, folder: Path, options: argparse.Namespace) -> pd.DataFrame:
    """Draw image, change, change of the spectrum and score for each attack, with a detector trained on that attack."""
    name = options.features[0]
    examples, rows = {}, []
    for key in options.attacks:
        detector, pairs, parts = _fitted(victim, name, key, options.seed, options)
        example = pairs[parts["test"]][options.example : options.example + 1]
        if not len(example):
            raise ValueError(f"--example {options.example}: {key} has {len(parts['test'])} test images.")
        both = torch.from_numpy(np.concatenate([example.image, example.attacked])).to(detector.device)
        with torch.no_grad():
            before, after = detector.guarded(both).score.tolist()
        classes = (str(example.label[0]), str(example.prediction[0]))
        examples[key] = AttackedExample(example.image[0], example.attacked[0], classes, (before, after))
        rows.append({"attack": key, "image": int(example.number[0]), "clean_score": before, "attacked_score": after})
    draw_attacks(examples, name).savefig(folder / "attacks.png", dpi=150)
    print(f"\n{pd.DataFrame(rows).round(3).to_string(index=False)}\n\n{folder}/attacks.png")
    return pd.DataFrame(rows)


def attack_data(
    victim: ImageClassifier, data: ImageDataModule, attack: Attack, folder: Path, wanted: int, seed: int = 0
) -> dict[str, Any]:
    """Attack the test images that the victim classifies correctly, batch by batch, until ``wanted`` attacks succeed.

    Batches that are in the folder already are not attacked again; the result does not depend on interruptions.

    Args:
        victim: on the device to work on.
        data: its first test set is attacked, in order.
        attack: the attack.
        folder: pairs go to ``folder / attack.key``.
        wanted: number of successes; the last batch may bring a few more, and the data may bring fewer.
        seed: of random starts.

    Returns:
        ``attack``, ``attacked``, ``success``, their ``rate``, and the medians of the L2 and L-infinity norms.
    """
    settings = {
        **attack.settings(),
        "victim": victim_fingerprint(victim),
        "batch_size": data.batch_size,
        "seed": seed,
    }
    store = PairFolder(folder / attack.key, settings)
    found = store.counts()[0]
    with tqdm(total=wanted, initial=min(found, wanted), desc=attack.key, unit="pair", disable=None) as bar:
        start = 0
        for batch, (images, labels) in enumerate(_test_batches(data, victim.device)):
            if found >= wanted:
                break
            numbers = torch.arange(start, start + len(labels), device=labels.device)
            start += len(labels)
            if store.has(batch):
                continue
            with torch.no_grad():
                right = victim(images).argmax(dim=1) == labels
            pairs = _pairs(victim, attack, images[right], labels[right], numbers[right], seed + batch)
            store.write(batch, pairs, int(right.sum()))
            found += len(pairs)
            bar.update(len(pairs))
    pairs, tried = store.read()
    change = torch.from_numpy(pairs.attacked - pairs.image).flatten(1)
    return {
        "attack": attack.key,
        "attacked": tried,
        "success": len(pairs),
        "rate": len(pairs) / max(tried, 1),
        "l2": float(change.norm(dim=1).median()) if len(pairs) else float("nan"),
        "linf": float(change.abs().amax(dim=1).median()) if len(pairs) else float("nan"),
    }


def victim_fingerprint(victim: ImageClassifier) -> str:
    """Short hash of a victim's weights and normalisation."""
    digest = hashlib.blake2b(digest_size=8)
    for module in (victim.backbone, victim.normalize):
        for name, value in [*module.named_parameters(), *module.named_buffers()]:
            digest.update(name.encode())
            digest.update(value.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _pairs(
    victim: ImageClassifier, attack: Attack, images: Tensor, labels: Tensor, numbers: Tensor, seed: int
) -> Pairs:
    attacked, success = images, torch.zeros_like(labels, dtype=torch.bool)
    if len(labels):
        attacked, success = attack.perturb(victim, images, labels, seed)
    with torch.no_grad():
        predictions = victim(attacked[success]).argmax(dim=1) if success.any() else labels[success]
    kept = (images[success], attacked[success], labels[success], predictions, numbers[success])
    return Pairs(*(values.cpu().numpy() for values in kept))


def _test_batches(data: ImageDataModule, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    data.prepare_data()
    data.setup("test")
    for batch in data.loader(next(iter(data.test_sets.values()))):
        batch = data.on_before_batch_transfer(batch, 0)
        batch = {key: value.to(device) if isinstance(value, Tensor) else value for key, value in batch.items()}
        batch = data.on_after_batch_transfer(batch, 0)
        yield batch["image"], batch["label"]


def _victim(arguments: Sequence[str]) -> tuple[ImageClassifier, ImageDataModule, Path]:
    """Classifier in eval mode on the device, its data and the folder of the run."""
    cli = main([*arguments, "--trainer.logger=false", "--trainer.enable_checkpointing=false"], run=False)
    if not isinstance(cli.model, ImageClassifier):
        raise ValueError(f"studies.spectral_defense attacks an ImageClassifier, not {type(cli.model).__name__}.")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    folder = Path(cli.run_directory or ".")
    folder.mkdir(parents=True, exist_ok=True)
    return cli.model.eval().to(device), cli.datamodule, folder


def _seeds(options: argparse.Namespace) -> range:
    return range(options.seed, options.seed + options.seeds)


def _detector(victim: ImageClassifier, name: str, pairs_in: Path, options: argparse.Namespace) -> AdversarialDetector:
    """Detector that is not fitted yet, but for what the baselines take from training images."""
    settings: Any = {"features": name.removesuffix("_minibatch"), **options.detector}
    detector = AdversarialDetector(victim, **settings).to(victim.device).eval()
    if detector.features.needs_reference and name != "lid_minibatch":
        images, labels = (torch.from_numpy(values) for values in load_reference(pairs_in))
        batches = zip(images.split(100), labels.split(100), strict=True)
        detector.features.fit(victim, ((x.to(victim.device) / 255, y.to(victim.device)) for x, y in batches))
    return detector


def _features(detector: AdversarialDetector, name: str, pairs: Pairs) -> Tensor:
    clean, attacked = torch.from_numpy(pairs.image), torch.from_numpy(pairs.attacked)
    return pair_features(detector, clean, attacked, minibatch_reference=name == "lid_minibatch")


def _fitted(
    victim: ImageClassifier, name: str, attack_key: str, seed: int, options: argparse.Namespace
) -> tuple[AdversarialDetector, Pairs, dict[str, Any]]:
    """Detector of one attack with head and verdicts, and the pairs and their parts."""
    pairs = _read(options.pairs_in / attack_key, victim, options.pairs)
    parts = pairs.parts(seed)
    detector = _detector(victim, name, options.pairs_in, options)
    fit_detector(detector, _features(detector, name, pairs), parts)
    return detector, pairs, parts


def _read(folder: Path, victim: ImageClassifier | None, count: int | None) -> Pairs:
    """Pairs of a folder; with a victim, only if they were made with it."""
    store = PairFolder(folder)
    if victim is not None:
        store.check_victim(victim_fingerprint(victim))
    return store.read()[0][:count]


def _attacks_in(folder: Path, wanted: Sequence[str]) -> list[str]:
    found = [name for name in wanted if (folder / name).is_dir()]
    if not found:
        raise FileNotFoundError(f"There are no pairs of {', '.join(wanted)} in {folder}.")
    return found


def _summary(rows: list[dict[str, Any]]) -> str:
    """Mean and standard deviation over seeds, one row per pair of attacks."""
    groups = pd.DataFrame(rows).groupby(["trained_on", "tested_on"], sort=False)[METRICS]
    cells = groups.mean().round(3).astype(str) + " +- " + groups.std(ddof=0).round(3).astype(str)
    return str(cells.to_string())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="studies.spectral_defense",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(required=True)
    attacking = _command(commands, attack)
    attacking.add_argument("--steps", type=int, help="iterations, for all attacks; published ones by default")
    attacking.add_argument("--binary_search_steps", type=int, default=9, help="constants that carlini_wagner tries")
    attacking.add_argument("--reference", type=int, default=10_000, help="training images kept for the baselines")
    attacking.set_defaults(pairs=1000)

    tabling = _command(commands, table)
    tabling.add_argument("--train_on", type=_names, help="attacks to train on; all by default")
    tabling.add_argument(
        "--also", type=Path, nargs="*", default=[], help="more pairs to test on, made with other victims or data"
    )
    tabling.add_argument(
        "--other", nargs=2, metavar=("CONFIG", "PAIRS"), help="test on pairs of another victim with its own features"
    )
    informed = _command(commands, adaptive)
    informed.add_argument("--images", type=int, default=100, help="test images to attack")
    informed.add_argument("--epsilon", type=float, default=0.03, help="largest change of a pixel")
    informed.add_argument("--steps", type=int, default=100, help="iterations")
    informed.add_argument(
        "--weights", type=_numbers, default=[0.0, 0.01, 0.1, 1.0, 10.0], help="of the detector's score, e.g. 0,1"
    )
    informed.set_defaults(attacks=["pgd"], features=["input_mfs", "layer_mfs"])
    drawing = _command(commands, picture)
    drawing.add_argument("--example", type=int, default=0, help="which of the test images")
    drawing.set_defaults(features=["layer_mfs"])
    for parser_of in (tabling, informed, drawing):
        parser_of.add_argument(
            "--features", type=_features_of, default=parser_of.get_default("features") or list(FEATURES)
        )
        parser_of.add_argument("--seeds", type=int, default=3, help="number of splits, from --seed on")
        parser_of.add_argument(
            "--detector", type=_settings, default={}, help="of AdversarialDetector, e.g. '{head: svm_rbf, C: 10}'"
        )
    return parser


def _command(commands: Any, command: Any) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(command.__name__, help=command.__doc__, allow_abbrev=False)
    parser.add_argument("--attacks", type=_names, default=list(ATTACKS), help="e.g. fgsm,fgsm@0.01,deepfool")
    parser.add_argument("--pairs", type=_count, help="successful attacks of each kind, 1000 to make, all to use")
    parser.add_argument("--pairs_in", type=Path, default=Path("data/adversarial"), help="folder of pairs")
    parser.add_argument("--seed", type=int, default=0, help="of random starts and of splits")
    parser.set_defaults(command=command)
    return parser


def _names(text: str) -> list[str]:
    names = text.split(",")
    for name in names:
        try:
            Attack.parse(name)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error
    return names


def _features_of(text: str) -> list[str]:
    names = text.split(",")
    unknown = set(names) - set(FEATURE_CHOICES)
    if unknown:
        raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))}: known are {', '.join(FEATURE_CHOICES)}")
    return names


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of pairs; give at least 1.")
    return int(text)


def _numbers(text: str) -> list[float]:
    return [float(part) for part in text.split(",")]


def _settings(text: str) -> dict[str, Any]:
    settings = yaml.safe_load(text)
    if not isinstance(settings, dict):
        raise argparse.ArgumentTypeError(f"{text!r} is no mapping; write e.g. '{{head: svm_rbf, C: 10}}'")
    return settings


if __name__ == "__main__":
    try:
        run()
    except (FileNotFoundError, ValueError) as error:
        sys.exit(f"error: {error}")
