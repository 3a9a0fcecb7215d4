"""A generator that has learnt its target: images in, images out."""

from __future__ import annotations

import copy
import pickle
import struct
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightning_modules.networks.additive_translator import AdditiveTranslator
from lightning_modules.networks.stargan import TranslationGenerator

__all__ = ["Translator", "create_generator"]


def create_generator(network: str, slots: int, width: int, blocks: int, depth: int) -> nn.Module:
    """Generator of few-shot translation, untrained.

    Args:
        network: ``additive`` or ``stargan``.
        slots: length of the label vector.
        width: channels at full size.
        blocks: residual blocks.
        depth: halvings before these, of ``additive``; ``stargan`` has two.

    Raises:
        ValueError: if there is no such network.
    """
    if network == "additive":
        return AdditiveTranslator(slots, width, blocks, depth)
    if network == "stargan":
        return TranslationGenerator(slots, width, blocks)
    raise ValueError(f"model.network={network!r} is neither additive nor stargan.")


class Translator(nn.Module):
    """Frozen copy of an adapted generator, that asks it for the target.

    Args:
        generator: adapted.
        settings: arguments of :func:`create_generator`, kept in the file so that :meth:`load` needs nothing else.
    """

    def __init__(self, generator: nn.Module, settings: dict[str, Any]) -> None:
        super().__init__()
        self.generator, self.settings = copy.deepcopy(generator).requires_grad_(False).eval(), dict(settings)
        self.zero_grad(set_to_none=True)

    def train(self, mode: bool = True) -> Translator:
        """It stays in eval mode."""
        return super().train(False)

    def forward(self, x: Tensor) -> Tensor:
        """Translated images in [0, 1], ``(B, 3, H, W)``, of images in [0, 1].

        Raises:
            ValueError: if H or W is no multiple of what the generator divides them by.
        """
        unit = 4 if self.settings["network"] == "stargan" else 2 ** self.settings["depth"]
        if x.shape[-2] % unit or x.shape[-1] % unit:
            raise ValueError(f"Images of {x.shape[-2]} x {x.shape[-1]} pixels: sides must be multiples of {unit}.")
        wanted = x.new_zeros(len(x), self.settings["slots"])
        wanted[:, -1] = 1
        made: Tensor = self.generator(x, wanted)
        return made.clamp(0, 1)

    def save(self, path: str | Path) -> None:
        """Write weights and settings to a file of plain tensors and values."""
        torch.save({"settings": self.settings, "state_dict": self.generator.state_dict()}, path)

    @classmethod
    def load(cls, path: str | Path) -> Translator:
        """Read what :meth:`save` wrote, with ``weights_only``.

        Raises:
            ValueError: if the file is something else.
        """
        refusal = f"{path} is no translator: write one with Translator.save."
        try:
            kept = torch.load(path, map_location="cpu", weights_only=True)
        except (EOFError, RuntimeError, pickle.UnpicklingError, struct.error) as error:
            raise ValueError(refusal) from error
        if not isinstance(kept, dict) or not {"settings", "state_dict"} <= kept.keys():
            raise ValueError(refusal)
        generator = create_generator(**kept["settings"])
        generator.load_state_dict(kept["state_dict"])
        return cls(generator, kept["settings"])
