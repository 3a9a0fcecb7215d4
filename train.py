"""The one entry of TrueLight: ``python train.py fit | validate | test | predict | audit | landscape | spectrum``.

LightningCLI in subclass mode with OmegaConf interpolation. Configs compose (``-c a.yaml -c b.yaml``), every class is
named by its short name or import path, and whatever is on the command line wins, also over a checkpoint.
"""

from __future__ import annotations

import difflib
import inspect
import io
import os
import pickle
import re
import shutil
import sys
import tempfile
import traceback
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
import yaml
from jsonargparse import Namespace, set_parsing_settings
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only, rank_zero_warn
from omegaconf.errors import OmegaConfBaseException

import callbacks
import datamodules
import lightning_modules
from callbacks.after_validation import AfterValidation
from callbacks.run_directory import SaveRunConfig, find_checkpoint, new_run_directory, unused_path
from callbacks.seed_per_rank import SeedPerRank
from datamodules.audit import LEAST_IMAGES, AuditReport, audit
from datamodules.decoding import ImageReadError
from tuner.config_files import check_configs
from tuner.trial_channel import CHANNEL

__all__ = ["TrueLightCLI", "load_run", "main", "plain_refusals"]

ROOT = Path(__file__).resolve().parent
ROOMS = ("callbacks", "datamodules", "functional", "lightning_modules", "studies", "train.py", "tuner")
DEFAULT_LOGGERS: list[dict[str, Any]] = [
    {"class_path": "CSVLogger", "init_args": {"save_dir": "", "name": "", "version": "csv"}},
    {"class_path": "TensorBoardLogger", "init_args": {"save_dir": "", "name": "", "version": "tensorboard"}},
]


_OPTIONS = ["config", "seed_everything", "trainer", "model", "data", "experiment", "runs", "ckpt_path"]
_QUIET_TRAINER = {"callbacks": None, "logger": False, "accelerator": "cpu", "devices": 1, "strategy": "auto"}


class FriendlyParser(LightningArgumentParser):
    """Parser whose errors name the key, the value and the mend instead of jsonargparse's nested unions."""

    def error(self, message: str, ex: Exception | None = None) -> Any:
        """Print the explanation, or jsonargparse's own text where there is none, and exit with status 2."""
        explained = explain_parse_error(message)
        if not self.exit_on_error:
            super().error(explained or message, ex)
        print(f"error: {explained or f'{message}. See `train.py SUBCOMMAND --help`.'}", file=sys.stderr)
        raise SystemExit(2) from ex


class TrueLightTrainer(Trainer):
    """Lightning's trainer, the audit of a data set, which needs no model, and a look at the loss of a finished run."""

    def audit(self, model: LightningModule | None, datamodule: LightningDataModule, samples: int = 300) -> AuditReport:
        """Tell whether format, size or codec give the labels of a data set away, and which settings take that out.

        Args:
            model: not needed.
            datamodule: the data, e.g. RealFakeDataModule.
            samples: most images of each label whose pixels are looked at.
        """
        if not hasattr(datamodule, "training_view"):
            raise TypeError(f"audit: {type(datamodule).__name__} has no real and fake images to compare.")
        if samples < LEAST_IMAGES:
            raise ValueError(f"samples={samples}: the audit needs at least {LEAST_IMAGES} images of each label.")
        datamodule.report_folder = Path(self.default_root_dir)  # type: ignore[attr-defined]
        datamodule.prepare_data()
        report = audit(datamodule, samples)  # type: ignore[arg-type]
        directory = Path(self.default_root_dir)
        written = report.write(directory, f"{type(datamodule).__module__}.{type(datamodule).__name__}")
        print(f"\n{report.text()}\n\nWritten:")
        for file in written:
            print(f"  {file}")
        if report.fix is not None:
            print(f"Train with the shortcut taken out: python train.py fit ... -c {directory / 'audit_fix.yaml'}")
        return report

    def landscape(
        self,
        model: LightningModule,
        datamodule: LightningDataModule | None = None,
        ckpt_path: str | None = None,
        weights_only: bool | None = True,
        **kwargs: Any,
    ) -> None:
        """Draw the loss around a checkpoint, with the path that led there or with other checkpoints.

        Args:
            model: to load the checkpoint into.
            datamodule: the data.
            ckpt_path: the centre: a file, ``best`` or ``last``; the best by default.
            weights_only: load tensors and plain values only.
            kwargs: as for LossLandscape.
        """
        examiner = callbacks.LossLandscape(**kwargs)
        self._examine(AfterValidation(examiner), model, datamodule, ckpt_path, weights_only)

    def spectrum(
        self,
        model: LightningModule,
        datamodule: LightningDataModule | None = None,
        ckpt_path: str | None = None,
        weights_only: bool | None = True,
        **kwargs: Any,
    ) -> None:
        """Record the Hessian's eigenvalues, trace and density at a checkpoint, or at several.

        Args:
            model: to load the checkpoint into.
            datamodule: the data.
            ckpt_path: a file, ``best`` or ``last``; the best by default.
            weights_only: load tensors and plain values only.
            kwargs: as for HessianSpectrum.
        """
        examiner = callbacks.HessianSpectrum(**kwargs)
        self._examine(AfterValidation(examiner), model, datamodule, ckpt_path, weights_only)

    def _examine(
        self,
        watcher: Callback,
        model: LightningModule,
        datamodule: LightningDataModule | None,
        ckpt_path: str | None,
        weights_only: bool | None,
    ) -> None:
        """Validate a checkpoint, and let a callback look at it."""
        self.callbacks.append(watcher)  # type: ignore[attr-defined]
        self.validate(model, datamodule=datamodule, ckpt_path=ckpt_path, weights_only=weights_only, verbose=False)


class TrueLightCLI(LightningCLI):
    """LightningCLI with run directories, data-to-model links and checkpoints that never overrule the command line."""

    _without_model = False  # while the parser of a subcommand is built that needs none

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Lightning's subcommands and our own."""
        examinations = {name: {"model", "datamodule"} for name in ("audit", "landscape", "spectrum")}
        return {**LightningCLI.subcommands(), **examinations}

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        self._without_model = subcommand == "audit"
        return super()._prepare_subcommand_parser(klass, subcommand, **kwargs)

    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Trainer, model and data; for the audit the model may be left out."""
        if not self._without_model:
            super().add_core_arguments_to_parser(parser)
            return
        parser.add_lightning_class_args(self.trainer_class, "trainer")
        parser.add_lightning_class_args(LightningModule, "model", subclass_mode=True, required=False)
        parser.add_lightning_class_args(LightningDataModule, "data", subclass_mode=True)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add ``--experiment``, ``--runs`` and the links from data to model."""
        parser.add_argument(
            "--experiment", type=str, default="default", help="Name of the experiment: runs/<experiment>/<time>/."
        )
        parser.add_argument("--runs", type=str, default="runs", help="Folder that holds all experiments.")
        if not self._without_model:
            parser.link_arguments("data.class_path", "model.init_args.num_classes", compute_fn=_class_count)
            parser.link_arguments("data.init_args.image_size", "model.init_args.image_size")

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse the command line; an interpolation of nothing is refused by its key."""
        try:
            super().parse_arguments(parser, args)
        except OmegaConfBaseException as error:
            key = re.sub(r"^\w+\.", "", error.full_key or "") or "config"
            reason = " ".join(str(error).partition("\n")[0].split())
            raise ValueError(
                f"{key}: {reason}. Write ${{other.key}}, ${{oc.env:NAME,default}}, or the value itself."
            ) from error

    def _parse_ckpt_path(self) -> None:
        """Leave the command line alone: Lightning would let the checkpoint's hyperparameters overrule it."""

    def before_instantiate_classes(self) -> None:
        """Choose the run's directory and checkpoint, and point every logger at the directory."""
        config = self.config[self.subcommand] if self.subcommand else self.config
        if self.subcommand == "audit":  # the model of a training config is not built, nor what watches it
            config.model = None
            config.trainer.update(Namespace(_QUIET_TRAINER))
        elif self.subcommand:
            config.weights_only = True  # a checkpoint is data, never code
        self.run_directory: Path | None = None
        record = config.clone()
        self.save_config_kwargs["record"] = record
        if config.trainer.fast_dev_run:
            return
        root = Path(config.runs) / config.experiment
        resumed = self._resolve_checkpoint(config, root)
        if self.subcommand not in (None, "fit", "audit"):
            record.ckpt_path = config.ckpt_path
        # A resumed fit goes on in its own directory, so that "best" still means the best of all its epochs.
        suffix = "" if self.subcommand in (None, "fit") else f"-{self.subcommand}"
        self.run_directory = resumed or new_run_directory(root, suffix)
        config.trainer.default_root_dir = str(self.run_directory)
        if self.subcommand not in (None, "fit"):
            config.trainer.enable_checkpointing = False
        for callback in _listed(config.trainer.callbacks):
            if callback.class_path.endswith("ModelCheckpoint") and callback.init_args.get("dirpath") is None:
                callback.init_args.dirpath = str(self.run_directory / "checkpoints")
        for logger in _listed(config.trainer.logger):
            if logger.init_args.get("save_dir") in (None, "", "."):
                logger.init_args.save_dir = str(self.run_directory)
            if logger.class_path.endswith("CSVLogger"):  # it deletes the file of an earlier part of the same run
                logger.init_args.version = unused_path(self.run_directory / (logger.init_args.version or "csv")).name

    def _resolve_checkpoint(self, config: Namespace, root: Path) -> Path | None:
        """Replace ``last``/``best``/nothing by a file; return the directory that a resumed fit goes on in."""
        wanted, fitting = config.get("ckpt_path"), self.subcommand == "fit"
        if self.subcommand in (None, "audit") or (fitting and wanted is None):
            return None
        if wanted in ("last", "best", None):
            name = f"{wanted or 'best'}.ckpt"
            beside = [Path(str(path)).parent / "checkpoints" / name for path in config.get("config") or []]
            found = next((path for path in beside if path.is_file()), None) or find_checkpoint(root, name)
            if found is None and fitting:
                rank_zero_warn(
                    f"--ckpt_path {wanted}: no {root}/*/checkpoints/{wanted}.ckpt yet, starting from scratch."
                )
            elif found is None:
                last = find_checkpoint(root, "last.ckpt")
                if last and wanted is None and not _looks_for_best(last):
                    found = last
                elif last and wanted != "last":
                    raise SystemExit(
                        f"error: ckpt_path: {root} has no best checkpoint, because no epoch was validated yet, but a "
                        f"last one: pass --ckpt_path last or {last}."
                    )
                else:
                    raise SystemExit(
                        f"error: ckpt_path: no {root}/*/checkpoints/{wanted or 'best'}.ckpt to {self.subcommand}. "
                        f"Run `fit` for experiment {config.experiment!r} first, or pass --ckpt_path FILE."
                    )
            wanted = str(found) if found else None
        elif not Path(wanted).is_file():
            raise SystemExit(f"error: ckpt_path: {wanted!r} is neither a file nor one of last, best.")
        if wanted:
            _plain_checkpoint(Path(wanted))
        config.ckpt_path = wanted
        rank_zero_info(f"Checkpoint: {wanted or 'none'}")
        own = wanted and root.resolve() in Path(wanted).resolve().parents and Path(wanted).parent.name == "checkpoints"
        return Path(wanted).parent.parent if fitting and own else None

    def instantiate_classes(self) -> None:
        """Build everything."""
        with self._no_empty_run_left():
            super().instantiate_classes()

    def _run_subcommand(self, subcommand: str) -> None:
        with self._no_empty_run_left(), self._unfitting_checkpoint():
            super()._run_subcommand(subcommand)
        if subcommand == "audit" and self.run_directory:  # callbacks save that of the others
            record = self._parser(subcommand).dump(self.save_config_kwargs["record"], skip_unset=False)
            (self.run_directory / "config.yaml").write_text(record, encoding="utf-8")

    @contextmanager
    def _no_empty_run_left(self) -> Iterator[None]:
        """Remove the directory of a run that fails before anything but its loggers' folders was written to it.

        The config alone is worth keeping for a fit, which may be resumed.
        """
        try:
            yield
        except BaseException:
            run = self.run_directory
            first_rank = getattr(rank_zero_only, "rank", None) in (None, 0)
            empty = {"csv", "tensorboard"} | (set() if self.subcommand in (None, "fit") else {"config.yaml"})
            if run and first_rank and {path.name for path in run.glob("*")} <= empty:
                shutil.rmtree(run, ignore_errors=True)
            raise

    @contextmanager
    def _unfitting_checkpoint(self) -> Iterator[None]:
        """Say which checkpoint does not fit the model."""
        try:
            yield
        except RuntimeError as error:
            file, text = self._get(self.config, "ckpt_path"), " ".join(str(error).split())
            if file is None or not text.startswith("Error(s) in loading state_dict for"):
                raise
            raise ValueError(
                f"ckpt_path: {file} does not fit the model: {text[:300]}{'...' if len(text) > 300 else ''} Build the "
                "model that it was trained as: add -c config.yaml of its own run, or give another file."
            ) from error

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Build the trainer; without a checkpoint callback in the config, keep the best and the last epoch."""
        config = self._get(self.config_init, "trainer", default=Namespace())
        configured = config.get("callbacks") or []
        has_checkpoint = any(isinstance(callback, ModelCheckpoint) for callback in configured)
        wanted = self.subcommand in (None, "fit") and config.get("enable_checkpointing") is not False
        if self.run_directory and wanted and not has_checkpoint:
            monitor, mode = getattr(self.model, "monitor", (None, "min"))
            common: dict[str, Any] = {
                "dirpath": self.run_directory / "checkpoints",
                "enable_version_counter": False,
                "save_on_train_epoch_end": True,  # from there a resumed run repeats an uninterrupted one
            }
            # Lightning's save_last=True writes last.ckpt only in epochs that improve the monitored metric.
            # The best is saved first, so that last.ckpt knows its score when a run resumes.
            kept = []
            if monitor:  # looked for only in epochs that validate
                every = config.get("check_val_every_n_epoch") or 1
                kept = [ModelCheckpoint(filename="best", monitor=monitor, mode=mode, every_n_epochs=every, **common)]
            kept.append(ModelCheckpoint(filename="last", **common))
            kwargs["callbacks"] = [*configured, *kept]
        if self.subcommand == "predict" and not any(isinstance(c, callbacks.PredictionWriter) for c in configured):
            kwargs["callbacks"] = [*configured, callbacks.PredictionWriter()]
        if CHANNEL in os.environ and self.subcommand == "fit":  # a trial of `tune`
            from tuner.trial_report import TrialReport

            kwargs["callbacks"] = [*kwargs.get("callbacks", configured), TrialReport.from_environment()]
        try:
            trainer = super().instantiate_trainer(**kwargs)
        except (MisconfigurationException, TypeError, ValueError) as error:
            raise ValueError(f"trainer: {error} See `train.py fit --help` for what its keys accept.") from error
        if self.run_directory:
            rank_zero_info(f"Run directory: {self.run_directory}")
        return trainer


def _looks_for_best(checkpoint: Path) -> bool:
    """Whether the run of a checkpoint watches a figure to keep the best epoch by."""
    return any(key.startswith("ModelCheckpoint{'monitor': '") for key in _plain_checkpoint(checkpoint)["callbacks"])


def _plain_checkpoint(checkpoint: Path) -> dict[str, Any]:
    """Content of a run's checkpoint, tensors left on the disk; refuses other files, before a run directory is made."""
    try:
        content = torch.load(
            checkpoint, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(checkpoint) or None
        )
    except pickle.UnpicklingError as error:
        reason = str(error).partition(". ")[0]
        raise ValueError(
            f"ckpt_path: the file is no checkpoint of plain tensors: {checkpoint} ({reason}). Give another file."
        ) from error
    except Exception as error:  # damage raises nearly any type
        raise ValueError(
            f"ckpt_path: {checkpoint} is damaged or no checkpoint ({error or type(error).__name__}). Give another file."
        ) from error
    if not isinstance(content, dict) or not {"state_dict", "pytorch-lightning_version"} <= content.keys():
        raise ValueError(
            f"ckpt_path: {checkpoint} is no checkpoint of a run. Weights alone are given with --model.weights FILE."
        )
    return content


def explain_parse_error(message: str) -> str | None:
    """Say in one line which key or class is wrong and what to write instead; None if the message is not understood."""
    explained = re.search(r".*(?:is not a known class|has no option).*", message)
    if explained:  # by the parser of a nested class
        return explained[0].strip()
    missing = re.search(r"(?:arguments are required: \S*?|[Kk]ey \")(model|data)\"?(?: is required|\s|$)", message)
    if missing and "required" in message:
        key = missing[1]
        return (
            f"{key} is missing: give --{key} CLASS or a config that names one. Known: {', '.join(_known_classes(key))}."
        )
    # The innermost class: that of a nested optimiser stands after the option, that of a module before it.
    owner = re.search(r"not accepted\. Got value: Namespace\(class_path='([^']+)'", message) or re.search(
        r".*Problem with given class_path '([^']+)'", message, re.DOTALL
    )
    option = re.search(r"Option '([^']+)' is not accepted", message)
    if owner and option:
        accepted = _options(_import(owner[1]))
        hint = _did_you_mean(option[1], accepted)
        return f"{owner[1].rpartition('.')[2]} has no option {option[1]!r}.{hint} It accepts: {', '.join(accepted)}."
    keys = re.findall(r'[Kk]ey "([\w.]+)"', message)
    unknown = re.search(r"Expected a dot import path string: (\S+)|No module named '(\S+)'", message)
    if unknown:
        name, key = unknown[1] or unknown[2], keys[-1] if keys else "class_path"
        if owner and owner[1].startswith(f"{name}."):  # the module is not there: say which class was looked for
            name = owner[1]
        known = _known_classes(key)
        listing = f" Known: {', '.join(known)}." if 0 < len(known) < 40 else ""
        return (
            f"{key}: {name!r} is not a known class.{_did_you_mean(name, known)}{listing} "
            "Your own class is given by its import path, e.g. my_package.my_file.MyClass."
        )
    value = re.search(r"(Expected [^\n]*?)\.? Got value: ([^\n]*)", message)
    if owner and value and len(keys) > 1:
        expected = re.sub(r"a typing\.Literal\[(.*?)\]", r"one of \1", value[1])
        expected = re.sub(r"an? <class '(?:\w+\.)*(\w+)'>", r"\1", expected)
        return f"{'.'.join(keys)}: {expected[0].lower() + expected[1:]}, got {value[2]!r}."
    given = re.search(r"Given value: ([^\n]*)", message)
    types = re.findall(r"Expected an? <class '(?:\w+\.)*(\w+)'>", message)
    if keys and given and keys[0] in ("model", "data"):
        base = {"model": "LightningModule", "data": "LightningDataModule"}[keys[0]]
        return f"{keys[0]}: {given[1]} is no {base}. Known: {', '.join(_known_classes(keys[0]))}."
    if keys and given and types:
        return f"{keys[0]}: expected {' or '.join(dict.fromkeys(types))}, got {given[1]!r}."
    return _explain_unknown_option(message)


def _explain_unknown_option(message: str) -> str | None:
    """The nearest option there is."""
    unknown = re.search(r"does not accept option '([^']+)'|unrecognized arguments: (\S+)", message)
    if unknown is None:
        return None
    given = unknown[1] or unknown[2]
    if not unknown[1] and not given.startswith("-"):
        return f"{given!r} belongs to no option: write --KEY VALUE or --KEY=VALUE."
    head, _, rest = given.lstrip("-").partition("=")[0].partition(".")
    if head == "trainer" and rest:
        known = [name for name in inspect.signature(Trainer.__init__).parameters if name != "self"]
        return f"trainer has no option {rest!r}.{_did_you_mean(rest, known)} It accepts: {', '.join(known)}."
    return f"{head!r} is no option.{_did_you_mean(head, _OPTIONS)} Options are: {', '.join(_OPTIONS)}."


def _import(class_path: str) -> Any:
    module, _, name = class_path.rpartition(".")
    return getattr(import_module(module), name)


def _options(cls: type) -> list[str]:
    """Names of all arguments of a class, those that it passes on to its bases included."""
    names: list[str] = []
    for base in cls.__mro__:
        initialise: Any = vars(base).get("__init__")
        parameters = inspect.signature(initialise).parameters.values() if initialise else ()
        names += [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD and p.name != "self"]
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return list(dict.fromkeys(names))


def _known_classes(key: str) -> list[str]:
    """Short names that a key accepts."""
    places: dict[str, tuple[Any, type]] = {
        "model": (lightning_modules, LightningModule),
        "data": (datamodules, LightningDataModule),
        "callbacks": (callbacks, Callback),
        "optimizer": (torch.optim, torch.optim.Optimizer),
        "lr_scheduler": (torch.optim.lr_scheduler, torch.optim.lr_scheduler.LRScheduler),
    }
    room, base = places.get(key.rpartition(".")[2], (None, object))
    return (
        [name for name, item in vars(room).items() if inspect.isclass(item) and issubclass(item, base)] if room else []
    )


def _did_you_mean(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name.rpartition(".")[2], known, 1)
    return f" Did you mean {close[0]!r}?" if close else ""


def _class_count(class_path: str | None) -> int | None:
    """Class count that a datamodule class declares as ``num_classes``."""
    if not class_path or "." not in class_path:
        return None
    module, _, name = class_path.rpartition(".")
    count = getattr(getattr(sys.modules.get(module), name, None), "num_classes", None)
    return count if isinstance(count, int) else None


def _listed(configs: Any) -> list[Namespace]:
    """Class configs of a trainer option that takes one, many or none."""
    return [item for item in (configs if isinstance(configs, list) else [configs]) if isinstance(item, Namespace)]


def main(args: ArgsType = None, run: bool = True) -> TrueLightCLI:
    """Run the command line.

    Args:
        args: arguments as on the command line, e.g. ``["fit", "-c", "configs/demo/raw.yaml"]``; the process's own
            arguments if None.
        run: False builds model, data and trainer without a subcommand, for notebooks.

    Returns:
        The finished CLI, with ``model``, ``datamodule``, ``trainer`` and ``run_directory``.
    """
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))  # `truelight fit --model my_file.MyModule` finds the user's own file
    if args is None:
        sys.argv[1:] = with_own_configs(sys.argv[1:])
    elif isinstance(args, list):
        args = with_own_configs(args)
    given = sys.argv[1:] if args is None else args
    check_configs(given if isinstance(given, list) else [])
    set_parsing_settings(omegaconf_absolute_to_relative_paths=True)
    torch.set_float32_matmul_precision("high")
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message=r"`isinstance\(treespec, LeafSpec\)` is deprecated"
        )  # Lightning's own
        warnings.filterwarnings(
            "ignore", message=r"The number of training batches .* is smaller than the logging interval"
        )
        warnings.filterwarnings("ignore", message=r"Be aware that when using `ckpt_path`, callbacks used to create")
        warnings.filterwarnings("ignore", message="LightningCLI's args parameter is intended to run from within Python")
        return TrueLightCLI(
            LightningModule,
            LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            trainer_class=TrueLightTrainer,
            save_config_callback=SaveRunConfig,
            save_config_kwargs={"save_to_log_dir": False},
            seed_everything_default=0,
            trainer_defaults={"logger": DEFAULT_LOGGERS, "callbacks": [SeedPerRank()], "log_every_n_steps": 10},
            parser_class=FriendlyParser,
            parser_kwargs={"parser_mode": "omegaconf+", "epilog": "tune: search for good values of keys (tune --help)"},
            auto_configure_optimizers=False,
            args=args,
            run=run,
        )


def with_own_configs(arguments: list[str]) -> list[str]:
    """Arguments in which ``configs/...`` that the working directory lacks is the file that came with the installation.

    Args:
        arguments: of the command line.
    """

    def found(argument: str) -> str:
        option, _, path = argument.rpartition("=")
        named = option in ("", "-c", "--config") and path.startswith("configs/") and not Path(path).exists()
        return argument.replace(path, str(ROOT / path)) if named and (ROOT / path).is_file() else argument

    return [found(argument) if isinstance(argument, str) else argument for argument in arguments]


def load_run(directory: str | Path, checkpoint: str = "best") -> LightningModule:
    """The trained module of a run, in evaluation mode, for notebooks and scripts.

    The module is built from the run's own config, so its encoder, judge and networks are those that were trained.

    Args:
        directory: folder of a ``fit``, with ``config.yaml`` and ``checkpoints/``.
        checkpoint: ``best`` or ``last``; runs that keep no best one give their last.

    Raises:
        FileNotFoundError: if the folder holds no config or no such checkpoint.
    """
    directory = Path(directory)
    config, files = directory / "config.yaml", directory / "checkpoints"
    found = next((file for name in (checkpoint, "last") if (file := files / f"{name}.ckpt").is_file()), None)
    if not config.is_file() or found is None:
        wanted = config if not config.is_file() else files / f"{checkpoint}.ckpt"
        raise FileNotFoundError(
            f"{wanted} does not exist: give the folder of a finished fit, runs/<experiment>/<time>."
        )
    recorded = yaml.safe_load(config.read_text(encoding="utf-8"))
    recorded = {key: recorded[key] for key in ("seed_everything", "trainer", "model", "data") if key in recorded}
    one_process = {"logger": False, "callbacks": None, "accelerator": "auto", "devices": 1, "strategy": "auto"}
    recorded["trainer"] = {**recorded["trainer"], **one_process, "enable_checkpointing": False, "fast_dev_run": True}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "config.yaml"
        file.write_text(yaml.safe_dump(recorded), encoding="utf-8")
        model = main(["--config", str(file)], run=False).model
    state = torch.load(found, map_location="cpu", weights_only=True)
    model.on_load_checkpoint(state)
    model.load_state_dict(state["state_dict"])
    return model.eval()


def resolved_config(arguments: list[str]) -> str:
    """The whole config of ``fit`` with some arguments, as YAML; exits with a message if they are refused."""
    text = io.StringIO()
    try:
        with redirect_stdout(text):
            main(["fit", *arguments, "--print_config"])
    except SystemExit as stop:
        if stop.code:
            raise
    return text.getvalue()


_FROM_WORKER = "in DataLoader worker process"
_BURIED = re.compile(r"^\s*- ((?:data|model|trainer)\.\w\S* .*)$", re.MULTILINE)  # a refusal by a class within a class


def console() -> None:
    """Run the command line; a mistake that our own code refuses ends it with the message alone, no traceback."""
    with plain_refusals():
        if sys.argv[1:2] == ["tune"]:  # launches a fit for each trial and builds nothing itself
            from tuner.command import tune

            tune(with_own_configs(sys.argv[2:]), resolved_config)
        else:
            main()


@contextmanager
def plain_refusals() -> Iterator[None]:
    """End the program with the message of what our own code refuses; anything else keeps its traceback."""
    try:
        yield
    except (FloatingPointError, KeyError, OSError, TypeError, ValueError) as error:
        cause: BaseException | None = error
        while cause is not None and not _is_refusal(cause):  # what a constructor raises comes wrapped
            cause = cause.__cause__
        if cause is None:
            buried = _BURIED.search(str(error))
            if buried is None:
                raise
            sys.exit(f"error: {buried[1]}")
        told = str(cause.args[0] if cause.args else cause)
        sys.exit(f"error: {told.rpartition('ImageReadError: ')[2] if _FROM_WORKER in told else told}")
    except pickle.UnpicklingError as error:
        sys.exit(f"error: ckpt_path: the file is no checkpoint of plain tensors: {str(error).splitlines()[0]}")


def _is_refusal(error: BaseException) -> bool:
    """Whether our own code raised it, here or in a process that loads data."""
    if isinstance(error, ImageReadError):
        return True
    last = traceback.extract_tb(error.__traceback__)[-1]
    path = Path(last.filename)
    ours = path.is_relative_to(ROOT) and path.relative_to(ROOT).parts[0] in ROOMS  # installed, others lie beside us
    return ours and (last.line or "").startswith("raise")


if __name__ == "__main__":
    console()
