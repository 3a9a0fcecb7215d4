"""What few-shot translation refuses, each with the key and the mend."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

from torch import Tensor

from functional.gan_losses import check_gan_loss

__all__ = ["Meta", "check_data", "check_precision", "check_settings", "check_shots"]

Meta = Literal["reptile", "fomaml", "maml", "joint"]

_COUNTS = ("source_slots", "width", "critic_width", "inner_steps", "inner_batch", "max_outer_steps", "predict_steps")


def check_settings(given: Mapping[str, Any], adaptation_steps: list[int]) -> None:
    """Check the arguments of FewShotTranslationGAN.

    Args:
        given: its arguments.
        adaptation_steps: sorted numbers of steps.

    Raises:
        ValueError: if one makes no sense.
    """
    check_gan_loss(given["gan_loss"])
    if given["meta"] not in get_args(Meta):
        raise ValueError(f"model.meta={given['meta']!r} is not one of {', '.join(get_args(Meta))}.")
    if given["meta"] in ("maml", "fomaml") and given["inner_optimizer"] != "sgd":
        raise ValueError(
            f"model.meta={given['meta']} takes its inner steps by plain descent: set model.inner_optimizer to sgd, "
            "and model.inner_lr to what that needs."
        )
    for name in _COUNTS:
        if given[name] is not None and given[name] < 1:
            raise ValueError(f"model.{name}={given[name]} must be at least 1.")
    for name in ("inner_lr_halved_after", "adaptation_lr"):
        if given[name] is not None and given[name] <= 0:
            raise ValueError(f"model.{name}={given[name]} must be positive, or null.")
    if min(given["depth"], given["blocks"]) < 0:
        raise ValueError(f"model.depth={given['depth']} and blocks={given['blocks']} must not be negative.")
    halvings, size = 2 if given["network"] == "stargan" else given["depth"], given["image_size"]
    if size % 2 ** max(halvings, given["critic_depth"]):
        raise ValueError(
            f"data.image_size={size} must be a multiple of {2**halvings} for the generator and of "
            f"{2 ** given['critic_depth']} for the critic: change it, model.depth or model.critic_depth."
        )
    if not adaptation_steps or adaptation_steps[0] < 0:
        raise ValueError(f"model.adaptation_steps={adaptation_steps}: name some numbers, none below 0.")
    if not 0 <= given["outer_decay"] <= 1 or given["inner_lr"] <= 0 or given["noise_seed"] < 0:
        raise ValueError(
            f"model.outer_decay={given['outer_decay']} must lie in [0, 1], inner_lr={given['inner_lr']} be "
            f"positive, noise_seed={given['noise_seed']} not negative."
        )


def check_precision(precision: str) -> None:
    """Refuse gradient scalers and rounded weights.

    Args:
        precision: as the trainer calls it.

    Raises:
        ValueError: naming those that work.
    """
    if precision not in ("32-true", "bf16-mixed", "64-true"):
        raise ValueError(
            f"trainer.precision={precision}: inner steps have no gradient scaler and need exact weights; use "
            "bf16-mixed or 32-true."
        )


def check_data(data: Any, source_slots: int, judge: Any) -> None:
    """Compare with the classes of a datamodule, where it says them.

    Args:
        data: the datamodule.
        source_slots: of the model.
        judge: classifier of the classes, if there is one.

    Raises:
        ValueError: if they are others.
    """
    known, classes, seen = (
        getattr(*pair, None) for pair in ((data, "known"), (data, "classes"), (judge, "attributes"))
    )
    if known is not None and len(known) != source_slots:
        raise ValueError(
            f"model.source_slots={source_slots}, but the data have {len(known)} classes of sources: set "
            f"model.source_slots to {len(known)}."
        )
    if classes is not None and seen is not None and list(seen) != list(classes):
        raise ValueError(
            f"model.judge tells {list(seen)} apart, but data.classes are {list(classes)}: name the same ones in "
            "the same order."
        )


def check_shots(shots: Tensor, sources: Tensor, steps: int) -> None:
    """Check what ``adapt`` is given.

    Args:
        shots: images of the class, ``(K, 3, H, W)``.
        sources: images of other classes, ``(M, 3, H, W)``.
        steps: of adaptation.

    Raises:
        ValueError: if there are no shots or sources, their values lie outside of [0, 1], or steps are below 0.
    """
    if not len(shots) or not len(sources) or steps < 0:
        raise ValueError(
            f"adapt: {len(shots)} shots and {len(sources)} sources, steps={steps}; it needs one image of each or more, "
            "and no fewer than 0 steps."
        )
    for name, images in (("shots", shots), ("sources", sources)):
        low, high = (float(end) for end in images.aminmax())
        if low < 0 or high > 1:
            raise ValueError(f"adapt: {name} reach from {low:g} to {high:g}; divide bytes by 255, to get [0, 1].")
