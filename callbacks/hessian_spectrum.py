"""Eigenvalues, trace and density of a loss's Hessian while a network learns (GradVis)."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from callbacks.analysis import Analysis, StillModule
from callbacks.analysis_parts import buffers_of, check_objective, parameters_of
from callbacks.hessian_plots import draw_spectrum, draw_spectrum_over_time
from callbacks.hessian_records import Record, read_records, scalars_of
from callbacks.outputs import gather_objects, log_figure, log_table
from callbacks.run_directory import run_directory
from callbacks.snapshots import read_checkpoints
from functional.batch_norm import BatchNormMode
from functional.lanczos import eigenpairs
from functional.parameter_vectors import random_vector
from functional.spectral_density import Quadrature, hutchinson_trace, negative_mass, stochastic_lanczos

__all__ = ["HessianSpectrum"]

_NEGATIVE_FROM = 1e-3  # of the eigenvalue of largest size: what counts as negative


class HessianSpectrum(Callback):
    """Record the curvature of the loss before training, and after epochs or steps (Chatzimichailidis et al. 2019).

    A record holds the largest and smallest eigenvalues with estimated errors, the trace, the density as nodes and
    weights of stochastic Lanczos quadrature, the share of eigenvalues below -0.1 % of the largest in size, loss,
    gradient norm, and the curvature along the gradient. Records are written to ``<run>/hessian/`` as ``.npz``, numbers
    go to the loggers as ``hessian/...``, and pictures of each density and of all over time to both. ``python train.py
    spectrum`` does it for a finished run.

    It needs a module with ``objective(batch)``, the mean loss of a batch, or ``objective(batch, player)``. Products
    are shared by processes, each with some of the batches; repeats of the quadrature are dealt out whole.

    Args:
        every_n_epochs: epochs between records; the last epoch is always recorded.
        every_n_steps: optimiser steps between records instead.
        top: number of largest eigenvalues.
        bottom: number of smallest eigenvalues.
        tolerance: wanted error of the eigenvalues, relative.
        max_steps: most products for them.
        density_steps: Lanczos steps of the quadrature, and nodes.
        repeats: random vectors of the quadrature.
        trace_probes: random vectors for the trace; with 0 it follows from the quadrature.
        matrix: ``hessian``, or ``gauss_newton`` for modules with ``forward(image)`` and ``loss(outputs, label)``.
        split: samples from ``train`` or ``val``.
        samples: number of samples.
        batch_size: samples at a time.
        precision: 32 or 64 bits.
        bn_mode: batch normalisation: ``eval``, ``train`` or ``recompute``.
        player: submodule to look at.
        seed: of random vectors.
        checkpoints: for the command ``spectrum``: further checkpoints to record, in this order, before the run's own.

    Raises:
        ValueError: if a value is out of its range.
    """

    def __init__(
        self,
        every_n_epochs: int = 1,
        every_n_steps: int | None = None,
        top: int = 2,
        bottom: int = 1,
        tolerance: float = 1e-3,
        max_steps: int = 100,
        density_steps: int = 30,
        repeats: int = 2,
        trace_probes: int = 5,
        matrix: Literal["hessian", "gauss_newton"] = "hessian",
        split: Literal["train", "val"] = "train",
        samples: int = 1000,
        batch_size: int = 250,
        precision: Literal[32, 64] = 32,
        bn_mode: BatchNormMode = "eval",
        player: str | None = None,
        seed: int = 0,
        checkpoints: list[str] | None = None,
    ) -> None:
        if every_n_epochs < 1 or (every_n_steps is not None and every_n_steps < 1):
            raise ValueError(
                f"HessianSpectrum.every_n_epochs={every_n_epochs}, every_n_steps={every_n_steps}: at least 1."
            )
        if min(top, bottom, trace_probes) < 0 or min(top + bottom, density_steps, repeats, max_steps) < 1:
            raise ValueError(
                f"HessianSpectrum.top={top}, bottom={bottom}, trace_probes={trace_probes} must not be negative, "
                f"top + bottom, density_steps={density_steps}, repeats={repeats}, max_steps={max_steps} at least 1."
            )
        if matrix not in ("hessian", "gauss_newton"):
            raise ValueError(f"HessianSpectrum.matrix={matrix!r} is not one of hessian, gauss_newton.")
        self.analysis = Analysis(split, samples, batch_size, precision, bn_mode, player)
        self.every_n_epochs, self.every_n_steps = every_n_epochs, every_n_steps
        self.top, self.bottom, self.tolerance, self.max_steps = top, bottom, tolerance, max_steps
        self.density_steps, self.repeats, self.trace_probes = density_steps, repeats, trace_probes
        self.matrix, self.seed, self.checkpoints = matrix, seed, checkpoints
        self._last_step = -1

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse modules without what is needed."""
        check_objective(pl_module, self.analysis.player)
        if self.matrix == "gauss_newton" and not callable(getattr(pl_module, "loss", None)):
            raise TypeError(
                f"HessianSpectrum.matrix=gauss_newton needs {type(pl_module).__name__}.loss(outputs, label), which it "
                "lacks."
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record where training starts."""
        self._last_step = -1
        self._during_training(trainer, pl_module, trainer.current_epoch)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Record, if steps count."""
        if self.every_n_steps and trainer.global_step % self.every_n_steps == 0:
            self._during_training(trainer, pl_module, trainer.current_epoch)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record, if epochs count."""
        epoch = trainer.current_epoch + 1
        if self.every_n_steps is None and epoch % self.every_n_epochs == 0:
            self._during_training(trainer, pl_module, epoch)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record where training ends, and draw the spectrum over time."""
        self._during_training(trainer, pl_module, trainer.current_epoch)
        if trainer.is_global_zero and not getattr(trainer, "fast_dev_run", False):
            self._summarise(trainer, Path(trainer.default_root_dir))

    def examine(self, trainer: Trainer, module: LightningModule) -> list[Record]:
        """Record checkpoints, if any are named, and the module as it is; write and log; a collective call."""
        directory, records = run_directory(trainer), []
        with self.analysis.hold(trainer, module) as still:
            named = parameters_of(module, self.analysis.player), buffers_of(module, self.analysis.player)
            if self.checkpoints:
                states = read_checkpoints(self.checkpoints, *named, self.analysis.player)
                kept = [tensor.clone() for tensor in (*still.parameters, *still.buffers)]
                for index, label in enumerate(states.labels):
                    still.write(states.parameters[index], states.buffers[index])
                    records.append(self._record(trainer, still, states.epochs[index], 0) | {"label": label})
                with torch.no_grad():
                    for tensor, values in zip((*still.parameters, *still.buffers), kept, strict=True):
                        tensor.copy_(values)
            epoch = max((record["epoch"] for record in records), default=-1.0) + 1
            records.append(self._record(trainer, still, epoch, trainer.global_step) | {"label": "model"})
        if trainer.is_global_zero:
            for index, record in enumerate(records):
                self._write(trainer, directory, record, f"{index:03d}")
            self._summarise(trainer, directory)
        return records

    def _during_training(self, trainer: Trainer, module: LightningModule, epoch: int) -> None:
        directory = run_directory(trainer)
        if getattr(trainer, "fast_dev_run", False) or trainer.global_step == self._last_step:
            return
        self._last_step = trainer.global_step
        with self.analysis.hold(trainer, module) as still:
            if not np.isfinite(still.loss()):  # no reason to end a training that may be looked at for just this
                rank_zero_warn(f"HessianSpectrum: the loss is not finite at step {trainer.global_step}; no record.")
                return
            record = self._record(trainer, still, epoch, trainer.global_step)
        if trainer.is_global_zero:
            self._forget_later(directory, trainer.global_step)
            self._write(trainer, directory, record, f"{trainer.global_step:08d}")

    def _record(self, trainer: Trainer, still: StillModule, epoch: float, step: int) -> Record:
        """All figures of one moment."""
        started = time.perf_counter()
        gauss_newton = self.matrix == "gauss_newton"
        operator = still.operator(shared=True, gauss_newton=gauss_newton)
        like = still.parameters[0]
        loss, gradient = operator.gradient()
        norm = float(gradient.norm())
        along = operator.gradient_curvature()
        start = random_vector(operator.size, self.seed).to(like)
        pairs = eigenpairs(operator.matvec, start, self.top, self.bottom, self.tolerance, self.max_steps, self.seed)
        options: dict[str, Any] = {"seed": self.seed + 1, "like": like}
        trace, error = float("nan"), float("nan")
        if self.trace_probes:
            trace, error = hutchinson_trace(operator.matvec, operator.size, self.trace_probes, **options)
        alone = operator if still.world_size == 1 else still.operator(shared=False, gauss_newton=gauss_newton)
        mine = range(still.rank, self.repeats, still.world_size)
        part = stochastic_lanczos(alone.matvec, operator.size, self.density_steps, mine, **options)
        found = gather_objects(trainer, (list(mine), part.nodes, part.weights))
        order = np.argsort([index for indices, _, _ in found for index in indices])
        nodes, weights = (np.concatenate([item[place] for item in found])[order] for place in (1, 2))
        quadrature = Quadrature(nodes, weights)
        if not self.trace_probes:
            trace = operator.size * quadrature.moment(1)
        # One node stands for the many eigenvalues around zero, and lies on either side of it by chance.
        threshold = _NEGATIVE_FROM * float(np.abs(nodes).max())
        return {
            "epoch": float(epoch),
            "step": step,
            "loss": loss,
            "gradient_norm": norm,
            "gradient_curvature": along,
            "top": pairs.top,
            "bottom": pairs.bottom,
            "top_errors": pairs.top_errors,
            "bottom_errors": pairs.bottom_errors,
            "trace": trace,
            "trace_error": error,
            "negative_mass": negative_mass(quadrature, threshold),
            "negative_threshold": threshold,
            "nodes": nodes,
            "weights": weights,
            "parameters": operator.size,
            "samples": operator.samples,
            "seconds": time.perf_counter() - started,
        }

    def _folder(self, directory: Path) -> Path:
        return directory / (f"hessian_{self.analysis.player}" if self.analysis.player else "hessian")

    def _write(self, trainer: Trainer, directory: Path, record: Record, name: str) -> None:
        folder = self._folder(directory)
        folder.mkdir(parents=True, exist_ok=True)
        np.savez(folder / f"record_{name}.npz", **record)
        figure = draw_spectrum(record, self._title(record))
        log_figure(trainer, folder, f"spectrum_{name}", figure)
        figure.savefig(folder / f"spectrum_{name}.svg")
        scalars = {f"{folder.name}/{key}": value for key, value in scalars_of(record).items()}
        for logger in trainer.loggers:
            logger.log_metrics(scalars, step=record["step"])

    def _summarise(self, trainer: Trainer, directory: Path) -> None:
        """Table and picture of all records of the run, those of its earlier parts included."""
        folder = self._folder(directory)
        records = read_records(folder)
        if not records:
            return
        table = pd.DataFrame([{"epoch": record["epoch"], **scalars_of(record)} for record in records])
        written = log_table(trainer, folder, "spectrum_table", table, index=False)
        if len(records) > 1:
            figure = draw_spectrum_over_time(records, self._title(records[-1], over_time=True))
            log_figure(trainer, folder, "spectrum_over_time", figure)
            figure.savefig(folder / "spectrum_over_time.svg")
        seconds = table["seconds"].sum()
        rank_zero_info(
            f"HessianSpectrum: {len(records)} records in {seconds:.1f} s, largest eigenvalue now "
            f"{table.iloc[-1].get('top_1', float('nan')):.4g}. {written.parent}/"
        )

    def _title(self, record: Record, over_time: bool = False) -> str:
        name = "Hessian" if self.matrix == "hessian" else "Gauss-Newton"
        owner = f" of {self.analysis.player}" if self.analysis.player else ""
        when = "" if over_time else f", epoch {float(record['epoch']):g}"
        return f"{name} spectrum{owner} on {int(record['samples'])} {self.analysis.split} samples{when}"

    def _forget_later(self, directory: Path, step: int) -> None:
        """Remove what an interrupted run recorded after the step that it was resumed from."""
        for file in self._folder(directory).glob("*_????????.*"):
            number = file.stem.rpartition("_")[2]
            if number.isdigit() and int(number) > step:
                file.unlink()
