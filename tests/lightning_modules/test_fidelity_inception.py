"""FidelityInception as a judge. The published weights are the user's; here the network has drawn ones."""

from __future__ import annotations

import pickle

import pytest
import torch
from torch import nn
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torchmetrics.image.fid import FrechetInceptionDistance

from lightning_modules import FidelityInception
from lightning_modules.generation_quality import Judge, JudgedSamples, generation_quality


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """File with weights of the right shapes; the network itself starts only from a file or a download."""
    folder = tmp_path_factory.mktemp("inception")
    torch.save({}, folder / "empty.pth")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nn.Module, "load_state_dict", lambda self, state, **kwargs: None)
        torch.manual_seed(0)
        network = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], str(folder / "empty.pth"))
    torch.save(network.state_dict(), folder / "drawn.pth")
    return folder / "drawn.pth"


def test_distances_are_those_of_torchmetrics_with_the_same_network(weights):
    judge = Judge(FidelityInception(str(weights)), "inception-2015")
    generator = torch.Generator().manual_seed(0)
    real, fake = (torch.rand(8, 3, 32, 32, generator=generator) ** power for power in (1, 2))
    found = generation_quality(judge.name, judge(real), judge(fake))
    theirs = FrechetInceptionDistance(2048, feature_extractor_weights_path=str(weights), antialias=False)
    theirs.update((real * 255).round().byte(), real=True)
    theirs.update((fake * 255).round().byte(), real=False)
    assert found["FID[inception-2015,8]"] == pytest.approx(float(theirs.compute()), rel=1e-4)
    samples = JudgedSamples(judge)
    samples.update(real, torch.zeros(8, dtype=torch.long), fake, fake)
    named = samples.compute(None, torch.cat)
    assert "conditional_accuracy" not in named  # its classes are not those of the data
    assert "class_entropy" not in named
    assert named["distance"] == pytest.approx(found["distance"])


def test_what_is_missing_or_wrong_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"model\.judge\.weights is missing: give the file pt_inception"):
        FidelityInception()
    with pytest.raises(ValueError, match="there is no file"):
        FidelityInception(str(tmp_path / "none.pth"))
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="does not hold the weights"):
        FidelityInception(str(tmp_path / "other.pth"))


class Harmful:
    def __reduce__(self):
        return (open, ("harmed", "w"))


def test_a_file_cannot_run_code(tmp_path):
    (tmp_path / "bad.pth").write_bytes(pickle.dumps(Harmful()))
    with pytest.raises(ValueError, match="does not hold the weights"):
        FidelityInception(str(tmp_path / "bad.pth"))
    assert not (tmp_path / "harmed").exists()
