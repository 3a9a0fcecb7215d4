"""Which tensors of a module a landscape or a spectrum is about."""

from __future__ import annotations

from collections.abc import Callable

from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

__all__ = ["buffers_of", "check_objective", "output_axes", "parameters_of"]

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def check_objective(module: LightningModule, player: str | None) -> Callable[..., Tensor]:
    """The module's ``objective``.

    Raises:
        TypeError: if it has none, or the module is not trained by gradient descent.
        ValueError: if there is no such player.
    """
    objective = getattr(module, "objective", None)
    arguments = "batch" if player is None else "batch, player"
    if not callable(objective):
        raise TypeError(
            f"Landscapes and Hessians need {type(module).__name__}.objective({arguments}), the mean loss of a batch, "
            "which it lacks."
        )
    if getattr(module, "fits_once", False):
        raise TypeError(
            f"Landscapes and Hessians need {type(module).__name__}.parameters() that are trained by gradient descent; "
            "this one's head is fitted."
        )
    if player is not None and player not in dict(module.named_modules()):
        known = ", ".join(name for name, _ in module.named_children())
        raise ValueError(f"player={player!r} is no submodule of {type(module).__name__}; it has {known or 'none'}.")
    return objective


def parameters_of(module: nn.Module, player: str | None = None) -> dict[str, Tensor]:
    """Trained parameters by name, without running averages of weights; compiled networks have their plain names.

    Raises:
        TypeError: if they are sharded over processes.
        ValueError: if there are none.
    """
    owner = module if player is None else module.get_submodule(player)
    averages = [part for part in owner.modules() if isinstance(part, AveragedModel)]
    skipped = {id(parameter) for part in averages for parameter in part.parameters()}
    named: dict[str, Tensor] = {
        name.replace("_orig_mod.", ""): parameter
        for name, parameter in owner.named_parameters()
        if parameter.requires_grad and id(parameter) not in skipped
    }
    if not named:
        raise ValueError(f"{type(owner).__name__} has no parameters that are trained.")
    if any(hasattr(parameter, "full_tensor") for parameter in named.values()):
        raise TypeError("Landscapes and Hessians need whole parameters on each process; strategies that shard do not.")
    return named


def buffers_of(module: nn.Module, player: str | None = None) -> dict[str, Tensor]:
    """Buffers by name that a checkpoint would hold."""
    owner = module if player is None else module.get_submodule(player)
    kept = owner.state_dict(keep_vars=True).keys()
    return {
        name.replace("_orig_mod.", ""): buffer
        for name, buffer in owner.named_buffers()
        if name in kept and not buffer.is_complex()
    }


def output_axes(module: nn.Module, named: dict[str, Tensor]) -> list[int]:
    """Axis of the output filters in each parameter: the second one in transposed convolutions, else the first."""
    transposed = {id(layer.weight) for layer in module.modules() if isinstance(layer, _TRANSPOSED)}
    return [int(id(parameter) in transposed) for parameter in named.values()]
