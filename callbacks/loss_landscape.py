"""The loss around a trained network, on a line or plane, with the path that led there (GradVis)."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from numpy.typing import NDArray

from callbacks.analysis import Analysis, StillModule
from callbacks.analysis_parts import buffers_of, check_objective, parameters_of
from callbacks.landscape_directions import Directions, axes_around, find_directions
from callbacks.landscape_grid import point_losses, state_losses
from callbacks.landscape_outputs import write_outputs
from callbacks.landscape_surface import Surface
from callbacks.run_directory import run_directory
from callbacks.snapshots import SnapshotFolder, States, read_checkpoints
from callbacks.trajectory_recorder import TrajectoryRecorder
from functional.batch_norm import BatchNormMode
from functional.landscape import Normalization
from functional.trajectory import plane_coordinates

__all__ = ["LossLandscape"]

Array = NDArray[np.float64]


class LossLandscape(Callback):
    """Draw the loss on a plane through the network's parameters (Chatzimichailidis et al. 2019).

    At the end of the fit, and during it every so many epochs, it writes contour, surface, ``.npz``, an interactive page
    and files for ParaView to ``<run>/landscape/`` and sends the pictures to the loggers. With
    :class:`TrajectoryRecorder` among the callbacks the path is drawn too, with the true loss of each snapshot beside
    that of its projection, and the distance to the plane. ``python train.py landscape`` does the same for a finished
    run. The loss is that of a module's ``objective(batch)``, in full precision on fixed samples; grid points are
    shared by all processes.

    Args:
        directions: ``random``; ``pca``, the plane in which the path spreads most; ``hessian``, the two eigenvectors of
            largest eigenvalue; ``checkpoints``, the line or plane through further checkpoints; or a file ``.npy`` with
            one or two vectors.
        points: grid points along each axis.
        span: reach of the grid to either side where no path sets it, in units of the directions.
        margin: share of the path's range that the grid goes beyond it.
        normalize: ``filter`` gives each filter of a direction the norm of that filter in the network (Li et al. 2018),
            ``layer`` each tensor, ``model`` the whole; ``none`` leaves directions alone. By default ``filter`` for
            random ones and ``none`` for others.
        components: principal components for ``pca``, counted from 1.
        every_n_epochs: epochs between landscapes during training; by default only at its end.
        split: samples from ``train`` or ``val``.
        samples: number of samples.
        batch_size: samples at a time.
        precision: 32 or 64 bits.
        bn_mode: batch normalisation at grid points: ``eval``, ``train`` or ``recompute``.
        player: submodule to look at, for modules of several players with ``objective(batch, player)``.
        seed: of random directions.
        checkpoints: for ``checkpoints``: files whose parameters are drawn in one landscape.
        trajectory: folder of a recorded path; that of the run by default, none for ``random``, whose planes hold next
            to nothing of a path.

    Raises:
        ValueError: if a value is out of its range.
    """

    def __init__(
        self,
        directions: str = "random",
        points: int = 25,
        span: float = 1.0,
        margin: float = 0.3,
        normalize: Normalization | None = None,
        components: tuple[int, int] = (1, 2),
        every_n_epochs: int | None = None,
        split: Literal["train", "val"] = "train",
        samples: int = 1000,
        batch_size: int = 250,
        precision: Literal[32, 64] = 32,
        bn_mode: BatchNormMode = "eval",
        player: str | None = None,
        seed: int = 0,
        checkpoints: list[str] | None = None,
        trajectory: str | None = None,
    ) -> None:
        if points < 2 or span <= 0 or margin < 0 or (every_n_epochs is not None and every_n_epochs < 1):
            raise ValueError(
                f"LossLandscape.points={points} must be at least 2, span={span} positive, margin={margin} not "
                f"negative, every_n_epochs={every_n_epochs} at least 1."
            )
        if directions not in ("random", "pca", "hessian", "checkpoints") and not directions.endswith(".npy"):
            raise ValueError(
                f"LossLandscape.directions={directions!r} is neither random, pca, hessian, checkpoints nor a file .npy."
            )
        if (directions == "checkpoints") != bool(checkpoints):
            raise ValueError(
                f"LossLandscape.directions={directions!r} with checkpoints={checkpoints}: give checkpoints for "
                "directions=checkpoints, and only there."
            )
        self.analysis = Analysis(split, samples, batch_size, precision, bn_mode, player)
        self.directions, self.points, self.span, self.margin = directions, points, span, margin
        self.normalize: Normalization = normalize or ("filter" if directions == "random" else "none")
        self.components, self.every_n_epochs, self.seed = components, every_n_epochs, seed
        self.checkpoints, self.trajectory = checkpoints, trajectory

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse modules without an objective, and a path where none is recorded."""
        check_objective(pl_module, self.analysis.player)
        if stage == "fit" and self.directions == "pca" and self.trajectory is None and self._recorder(trainer) is None:
            raise ValueError(
                "LossLandscape.directions=pca draws the path of training: add the callback TrajectoryRecorder"
                + (f" with player={self.analysis.player}." if self.analysis.player else ".")
            )

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw during training; directions that need a path wait until there is one."""
        epoch = trainer.current_epoch + 1
        due = self.every_n_epochs and epoch % self.every_n_epochs == 0 and epoch != trainer.max_epochs
        if due and self._has_plane(trainer, pl_module):
            self.examine(trainer, pl_module, f"_epoch_{epoch:03d}")

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw where training ended."""
        if self._has_plane(trainer, pl_module):
            self.examine(trainer, pl_module)
        else:
            rank_zero_warn("LossLandscape: the path is too short for a plane; nothing is drawn. Train longer.")

    def examine(self, trainer: Trainer, module: LightningModule, suffix: str = "") -> Surface | None:
        """Compute the landscape around the module's parameters, and write it on rank zero; a collective call.

        Args:
            trainer: the trainer that the module belongs to.
            module: at the centre of the landscape.
            suffix: appended to the name of the files.

        Returns:
            The landscape; None in a ``fast_dev_run``.
        """
        directory = run_directory(trainer)
        if getattr(trainer, "fast_dev_run", False):
            return None
        started = time.perf_counter()
        trainer.strategy.barrier()  # rank zero has recorded the last snapshot
        states = self._states(trainer, module)
        folder = self._home(trainer, directory) / "landscape" / "grids"
        with self.analysis.hold(trainer, module) as still:
            found = find_directions(
                self.directions, still, states, self.normalize, self.seed, (self.components[0], self.components[1])
            )
            surface = self._surface(trainer, still, found, states, folder)
        name = f"landscape_{Path(self.directions).stem}"
        name += (f"_{self.analysis.player}" if self.analysis.player else "") + suffix
        if trainer.is_global_zero:
            lowest = f"lowest {np.min(surface.losses):.4g}, centre {surface.centre_loss:.4g}"
            written = write_outputs(trainer, directory / "landscape", name, surface, found.vectors)
            rank_zero_info(
                f"LossLandscape: {surface.losses.size} points in {time.perf_counter() - started:.1f} s; loss {lowest}. "
                f"{written.parent}/{name}.*"
            )
        return surface

    def _surface(
        self, trainer: Trainer, still: StillModule, found: Directions, states: States | None, folder: Path
    ) -> Surface:
        centre = torch.cat([parameter.detach().cpu().flatten() for parameter in still.parameters])
        path, distances = np.empty((0, len(found.vectors))), np.empty(0)
        true, projected = np.empty(0), np.empty(0)
        if states is not None:
            path, distances = plane_coordinates(states.parameters, centre, found.vectors)
            true = state_losses(trainer, still, states)
            projected = point_losses(trainer, still, found.vectors, path, folder, "path")
        on_path = self.directions in ("pca", "checkpoints")
        x, y = axes_around(found, path if on_path else None, self.points, self.span, self.margin)
        grid = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)[:, : len(found.vectors)]
        losses = point_losses(trainer, still, found.vectors, grid, folder, "landscape").reshape(len(y), len(x))
        place = int(np.argmin(np.abs(y))), int(np.argmin(np.abs(x)))
        return Surface(
            x,
            y,
            losses,
            float(losses[place]),
            found.labels,
            path,
            true,
            projected,
            distances,
            np.array(states.epochs if states else []),
            states.labels if states else [],
            self.directions != "checkpoints",
            self._title(still),
        )

    def _has_plane(self, trainer: Trainer, module: LightningModule) -> bool:
        """Whether the path has as many directions as are wanted; a collective call."""
        if self.directions != "pca" or getattr(trainer, "fast_dev_run", False):
            return True
        trainer.strategy.barrier()  # rank zero has recorded the last snapshot
        states = self._states(trainer, module)
        return states is not None and len(states.epochs) > max(self.components)

    def _title(self, still: StillModule) -> str:
        player = f" of {self.analysis.player}" if self.analysis.player else ""
        return f"Loss{player} on {sum(still.counts)} {self.analysis.split} samples"

    def _states(self, trainer: Trainer, module: LightningModule) -> States | None:
        """The path, or the other minima."""
        player = self.analysis.player
        named = parameters_of(module, player), buffers_of(module, player)
        if self.checkpoints:
            return read_checkpoints(self.checkpoints, *named, player)
        if self.directions == "random" and self.trajectory is None:
            return None  # a random plane holds next to nothing of a path
        name = f"trajectory_{player}" if player else "trajectory"
        folder = Path(self.trajectory) if self.trajectory else self._home(trainer, run_directory(trainer)) / name
        recorded = SnapshotFolder(folder)
        recorder = self._recorder(trainer) if trainer.state.fn == "fit" else None
        if recorder is None and not recorded.exists and self.directions != "pca" and self.trajectory is None:
            return None
        return recorder.states(module) if recorder and not self.trajectory else recorded.read(*named)

    def _recorder(self, trainer: Trainer) -> TrajectoryRecorder | None:
        callbacks: list[Any] = getattr(trainer, "callbacks", [])
        recorders = [callback for callback in callbacks if isinstance(callback, TrajectoryRecorder)]
        return next((recorder for recorder in recorders if recorder.player == self.analysis.player), None)

    @staticmethod
    def _home(trainer: Trainer, directory: Path) -> Path:
        """The run that the parameters come from."""
        checkpoint = getattr(trainer, "ckpt_path", None)
        if trainer.state.fn == "fit" or not checkpoint:
            return directory
        parent = Path(str(checkpoint)).parent
        return parent.parent if parent.name == "checkpoints" else parent
