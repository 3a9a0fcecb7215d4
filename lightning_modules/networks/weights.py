"""Weights of a network from a file that holds tensors only."""

from __future__ import annotations

from pathlib import Path

from timm.models import load_state_dict
from torch import nn

__all__ = ["load_weights"]

_OURS = ("backbone.", "encoder.backbone.")  # of a module of ours, and of a GAN's encoder


def load_weights(network: nn.Module, path: str | Path) -> None:
    """Fill a network from a ``.safetensors`` file, a state dictionary or a checkpoint of ours.

    Nothing is unpickled but tensors. Of a checkpoint of ours the entries of the ``backbone`` are taken, of one of a
    latent-conditioned GAN those of its encoder's.

    Args:
        network: filled in place; every parameter and buffer must be in the file, and nothing else.
        path: file to read.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file does not fit the network, or holds more than tensors.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"model.weights: there is no file {str(path)!r}.")
    try:
        state = load_state_dict(str(path), use_ema=False, device="cpu", weights_only=True)
    except Exception as error:  # a damaged file raises nearly any type
        raise ValueError(
            f"model.weights={str(path)!r} holds more than tensors, or is damaged. Give another file."
        ) from error
    prefix = next((prefix for prefix in _OURS if any(key.startswith(prefix) for key in state)), "")
    state = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    expected = {key: value.shape for key, value in network.state_dict().items()}
    # Older files lack the counters of batch normalisation, which nothing at inference reads.
    missing = [key for key in expected if key not in state and not key.endswith("num_batches_tracked")]
    unknown = [key for key in state if key not in expected]
    other = [key for key in state if key in expected and state[key].shape != expected[key]]
    if missing or unknown or other:
        parts = [("missing", missing), ("unknown", unknown), ("of another shape", other)]
        listing = "; ".join(f"{len(keys)} {what}, e.g. {keys[0]}" for what, keys in parts if keys)
        raise ValueError(
            f"model.weights={str(path)!r} does not fit {type(network).__name__} ({listing}). Check model.backbone, "
            "model.backbone_kwargs and model.num_classes."
        )
    network.load_state_dict(state, strict=False)
