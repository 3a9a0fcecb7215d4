"""Which layers of a classifier a detector looks into, where none are named."""

from __future__ import annotations

from typing import Any

from torch import nn

from lightning_modules.networks import CifarResNet, CifarVGG

__all__ = ["observed_layers"]


def observed_layers(network: nn.Module, spectral: bool) -> list[str]:
    """Layers of a network in the order of the forward pass.

    For VGG the published ones: for LayerMFS and LayerPFS every second ReLU from the third on, for the baselines all
    ReLUs. For CIFAR ResNets, after the same pattern, the residual blocks (their last ReLU) of the second and third
    stage, and all blocks. For other networks of timm the stages that it lists for feature extraction.

    Args:
        network: the victim's network.
        spectral: for spectra, whose number of features grows with the maps, or for the baselines.

    Raises:
        ValueError: if the network is none of these.

    Source: Harder et al. 2021, the authors' code; the choice for other networks is ours.
    """
    if isinstance(network, CifarVGG):
        rectified = [f"features.{i}" for i, layer in enumerate(network.features) if isinstance(layer, nn.ReLU)]
        return rectified[2::2] if spectral else rectified
    if isinstance(network, CifarResNet):
        stages = ("layer2", "layer3") if spectral else ("layer1", "layer2", "layer3")
        return [f"{stage}.{block}" for stage in stages for block in range(len(getattr(network, stage)))]
    listed: Any = getattr(network, "feature_info", None)
    if not listed:
        raise ValueError(f"model.layers: name the layers of {type(network).__name__} to look into; none are known.")
    return [str(stage["module"]) for stage in listed]
