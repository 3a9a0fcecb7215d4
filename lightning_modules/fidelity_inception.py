"""The Inception network that published Fréchet distances and inception scores are measured with."""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
from torch import Tensor, nn

__all__ = ["FidelityInception"]


class FidelityInception(nn.Module):
    """TensorFlow's Inception of 2015 as a judge of generated images, with the weights that the field compares by.

    Its distances can be held against published ones if the number of images is the same (50,000 as a rule) and the real
    images are the same ones. It needs the package torch-fidelity: ``pip install 'truelight[fid]'``.

    Args:
        weights: file with the weights, ``pt_inception-2015-12-05-6726825d.pth`` of the project torch-fidelity.
        download: fetch that file where ``weights`` is not given (network access; off by default).

    Raises:
        ModuleNotFoundError: without torch-fidelity.
        ValueError: if there are neither weights nor leave to fetch them, or the file does not hold them.
    """

    def __init__(self, weights: str | None = None, download: bool = False) -> None:
        super().__init__()
        try:
            from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                "FidelityInception needs torch-fidelity: pip install 'truelight[fid]'."
            ) from error
        if weights is None and not download:
            raise ValueError(
                "model.judge.weights is missing: give the file pt_inception-2015-12-05-6726825d.pth of torch-fidelity, "
                "or --model.judge.init_args.download true to fetch it."
            )
        if weights is not None and not Path(weights).is_file():
            raise ValueError(f"model.judge.weights: there is no file {weights!r}.")
        try:
            if weights is not None:  # torch-fidelity would unpickle anything; a file that passes here is safe for it
                torch.load(weights, map_location="cpu", weights_only=True)
            self.network = FeatureExtractorInceptionV3("inception-v3-compat", ["2048", "logits_unbiased"], weights)
        except (RuntimeError, pickle.UnpicklingError) as error:
            if weights is None:
                raise
            raise ValueError(f"model.judge.weights={weights!r} does not hold the weights of that Inception.") from error

    def features_and_logits(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Features ``(B, 2048)`` and logits ``(B, 1008)`` of images in [0, 1], ``(B, 3, H, W)``, of any size.

        Pixels are rounded to bytes and resized to 299 x 299 within the network, as TensorFlow 1 did it (bilinear, no
        anti-aliasing).
        """
        features, logits = self.network((x.clamp(0, 1) * 255).round().byte())
        return features, logits
