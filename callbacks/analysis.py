"""A module held still: fixed batches, full precision, evaluation mode, and everything as before afterwards."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, distributed, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from callbacks.analysis_batches import cast, fixed_batches
from callbacks.analysis_parts import buffers_of, check_objective, output_axes, parameters_of
from functional.batch_norm import BatchNormMode, batch_norm_mode
from functional.curvature import GaussNewtonOperator, HessianOperator
from functional.landscape import mean_loss
from functional.parameter_vectors import batch_size as samples_in

__all__ = ["Analysis", "StillModule"]

_SPARE = 0.5  # share of the free memory that kept graphs may take


class StillModule(NamedTuple):
    """What landscapes and spectra look at, while :meth:`Analysis.hold` lasts."""

    parameters: list[Tensor]
    buffers: list[Tensor]
    output_axes: list[int]
    """Axis of the output filters in each parameter."""
    batches: list[Any]
    """The same on every process."""
    counts: list[int]
    objective: Callable[[Any], Tensor]
    split: Callable[[Any], tuple[Tensor, Callable[[Tensor], Tensor]]]
    prepare: Callable[[Callable[[], object]], None]
    bn_mode: str
    rank: int
    world_size: int

    def loss(self) -> float:
        """Mean loss over all batches at the parameters' present values."""
        self.prepare(lambda: mean_loss(self.objective, self.batches, self.counts))
        return mean_loss(self.objective, self.batches, self.counts)

    def operator(self, shared: bool, gauss_newton: bool = False) -> HessianOperator:
        """Hessian, or Gauss-Newton matrix, of the mean loss.

        Args:
            shared: let each process do its share of the batches and add up; else each does all.
            gauss_newton: the latter.
        """
        self.prepare(lambda: mean_loss(self.objective, self.batches, self.counts))
        part = slice(self.rank, None, self.world_size) if shared else slice(None)
        options: dict[str, Any] = {"keep_graphs": _SPARE * _free_memory(self.parameters[0].device)}
        if shared and self.world_size > 1:
            options["reduce"] = distributed.all_reduce
        if gauss_newton:
            return GaussNewtonOperator(self.split, self.parameters, self.batches[part], self.counts[part], **options)
        return HessianOperator(self.objective, self.parameters, self.batches[part], self.counts[part], **options)

    def write(self, parameters: Any, buffers: Any) -> None:
        """Put flat values ``(D,)`` and ``(B,)`` in place."""
        with torch.no_grad():
            for tensors, values in ((self.parameters, parameters), (self.buffers, buffers)):
                flat = values if isinstance(values, Tensor) else torch.from_numpy(np.array(values))
                for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
                    tensor.copy_(part.view(tensor.shape))


class Analysis:
    """Which loss of which parameters on which samples, and how precisely.

    Args:
        split: ``train`` or ``val``: where the samples come from, without the random changes made on the device.
        samples: number of samples, spread evenly over the data set; all if it has fewer. They stay in memory.
        batch_size: samples at a time; results do not depend on it, batch normalisation in ``train`` mode apart.
        precision: 32 or 64 bits, whatever the training's precision.
        bn_mode: ``eval`` keeps running statistics, ``train`` takes those of each batch, ``recompute`` estimates them
            anew at every point.
        player: for modules of several players, as GANs are, the name of the submodule whose parameters are looked at;
            the loss is then ``objective(batch, player)``.

    Raises:
        ValueError: if a value is out of its range.
    """

    def __init__(
        self,
        split: Literal["train", "val"] = "train",
        samples: int = 1000,
        batch_size: int = 250,
        precision: Literal[32, 64] = 32,
        bn_mode: BatchNormMode = "eval",
        player: str | None = None,
    ) -> None:
        if split not in ("train", "val"):
            raise ValueError(f"split={split!r} is not one of train, val.")
        if min(samples, batch_size) < 1:
            raise ValueError(f"samples={samples} and batch_size={batch_size} must be at least 1.")
        if precision not in (32, 64):
            raise ValueError(f"precision={precision!r} must be 32 or 64.")
        if bn_mode not in ("eval", "train", "recompute"):
            raise ValueError(f"bn_mode={bn_mode!r} is not one of eval, train, recompute.")
        self.split, self.samples, self.batch_size, self.player = split, samples, batch_size, player
        self.bn_mode: BatchNormMode = bn_mode
        self.dtype = torch.float64 if precision == 64 else torch.float32
        self._batches: list[Any] | None = None

    @contextmanager
    def hold(self, trainer: Trainer, module: LightningModule) -> Iterator[StillModule]:
        """Hold a module still; parameters, buffers, modes, random numbers and gradients are as before afterwards."""
        named = parameters_of(module, self.player)
        loss, player = check_objective(module, self.player), self.player
        device = module.device
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.enable_grad())
            stack.enter_context(torch.autocast(device.type, enabled=False))
            stack.enter_context(torch.random.fork_rng([device] if device.type == "cuda" else []))
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))  # the fused kernels have no second derivative
            stack.enter_context(torch.compiler.set_stance("force_eager"))  # nor have compiled networks
            stack.enter_context(_full_precision(module))
            if self._batches is None:
                self._batches = fixed_batches(trainer, module, self.split, self.samples, self.batch_size)
            stack.enter_context(_copied(module, self.dtype))
            prepare = stack.enter_context(batch_norm_mode(module, self.bn_mode))
            batches = [cast(batch, self.dtype) for batch in self._batches]
            yield StillModule(
                list(named.values()),
                list(buffers_of(module, self.player).values()),
                output_axes(module, named),
                batches,
                [samples_in(batch) for batch in batches],
                (lambda batch: loss(batch)) if player is None else (lambda batch: loss(batch, player)),
                lambda batch: _split(module, batch),
                prepare,
                self.bn_mode,
                trainer.global_rank,
                trainer.world_size,
            )


def _split(module: Any, batch: Any) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Outputs of a classifier, and its loss as a function of them."""
    return module(batch["image"]), lambda outputs: module.loss(outputs, batch["label"])


@contextmanager
def _copied(module: nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """Let all tensors of a module be copies, channels last, in another precision; the very tensors come back."""
    tensors = list(chain(module.parameters(), module.buffers()))
    kept = [tensor.data for tensor in tensors]
    try:
        for tensor in tensors:
            tensor.data = cast(tensor.data.clone(), dtype)
        yield
    finally:
        for tensor, data in zip(tensors, kept, strict=True):
            tensor.data = data


@contextmanager
def _full_precision(module: nn.Module) -> Iterator[None]:
    """No TF32, and no cuDNN for recurrent layers, whose kernels have no second derivative."""
    precision = torch.get_float32_matmul_precision()
    cudnn = torch.backends.cudnn
    recurrent = any(isinstance(layer, nn.RNNBase) for layer in module.modules())
    torch.set_float32_matmul_precision("highest")
    try:
        with cudnn.flags(
            enabled=cudnn.enabled and not recurrent, benchmark=False, deterministic=True, allow_tf32=False
        ):
            yield
    finally:
        torch.set_float32_matmul_precision(precision)


def _free_memory(device: torch.device) -> float:
    """Bytes that can still be had."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return float(free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))
    meminfo = Path("/proc/meminfo")  # which counts what caches would give back
    if meminfo.is_file():
        lines = dict(line.split(":") for line in meminfo.read_text().splitlines())
        return 1024.0 * int(lines["MemAvailable"].split()[0])
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 4)
