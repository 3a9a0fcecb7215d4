"""Calibration of verdicts: what is fitted, what it promises on new draws, and what survives casts and checkpoints."""

from __future__ import annotations

import io

import pytest
import torch
from torchmetrics import MetricCollection
from torchmetrics.classification import BinaryCalibrationError
from torchmetrics.functional.classification import binary_calibration_error

from lightning_modules.calibration import CalibratedError, VerdictCalibration

BUFFERS = ("temperature", "threshold", "unsure_below", "unsure_above")


def drawn(count, temperature=4.0, seed=0):
    """Scores of a detector that is too sure of itself by a factor, and labels."""
    generator = torch.Generator().manual_seed(seed)
    scores = 8 * torch.randn(count, generator=generator)
    return scores, (torch.rand(count, generator=generator) < torch.sigmoid(scores / temperature)).long()


def fitted(**kwargs):
    calibration = VerdictCalibration(**kwargs)
    calibration.fit(*drawn(5000))
    return calibration


def test_before_a_fit_it_is_even_odds():
    calibration = VerdictCalibration()
    scores = torch.tensor([-0.1, 0.0, 0.1, float("nan")])
    assert calibration.verdict(scores).tolist() == [0, 2, 1, 2]
    torch.testing.assert_close(calibration.probability(scores), torch.sigmoid(scores), equal_nan=True)


def test_calibration_error_falls_on_new_draws():
    calibration = VerdictCalibration()
    report = calibration.fit(*drawn(5000))
    assert report["temperature"] == calibration.temperature == pytest.approx(4, rel=0.1)
    scores, labels = drawn(20_000, seed=1)
    before = binary_calibration_error(torch.sigmoid(scores), labels, n_bins=15).item()
    after = binary_calibration_error(calibration.probability(scores), labels, n_bins=15).item()
    assert before > 0.1
    assert after < 0.02
    assert report["ece"] == pytest.approx(before, abs=0.02)
    assert report["ece_calibrated"] == pytest.approx(after, abs=0.02)


def test_error_after_is_not_flattered_by_judging_on_the_fitted_data():
    """On few images the error on the data that were fitted is smaller on average than the one reported."""
    reported, flattered = [], []
    for seed in range(30):
        scores, labels = drawn(40, seed=seed)
        calibration = VerdictCalibration()
        reported.append(calibration.fit(scores, labels)["ece_calibrated"])
        flattered.append(binary_calibration_error(calibration.probability(scores), labels, n_bins=15))
    assert torch.stack(reported).mean() > torch.stack(flattered).mean()


@pytest.mark.parametrize("error_rate", [0.0, 0.05, 0.2])
def test_rates_hold_on_the_data_of_the_fit(error_rate):
    scores, labels = drawn(5000)
    scores = scores.double() + 1e-9  # float32 buffers round it
    calibration = VerdictCalibration(error_rate)
    calibration.fit(scores, labels)
    verdicts = calibration.verdict(scores)
    assert verdicts.dtype == torch.int64
    assert (verdicts[labels == 0] == 1).double().mean() <= error_rate
    assert (verdicts[labels == 1] == 0).double().mean() <= error_rate
    false_alarms = (scores[labels == 0].float() > calibration.threshold).double().mean()
    assert error_rate - 1 / 2000 <= false_alarms <= error_rate


def test_ranks_that_gathered_in_another_order_agree():
    scores, labels = drawn(997)
    order = torch.randperm(997, generator=torch.Generator().manual_seed(5))
    one, two = VerdictCalibration(), VerdictCalibration()
    first, second = one.fit(scores, labels), two.fit(scores[order], labels[order].float())
    torch.testing.assert_close(first, second)
    for name in BUFFERS:
        torch.testing.assert_close(getattr(one, name), getattr(two, name))


def test_buffers_survive_a_checkpoint_and_casts():
    calibration = fitted()
    wanted = {name: getattr(calibration, name).clone() for name in BUFFERS}
    file = io.BytesIO()
    torch.save(torch.nn.ModuleDict({"calibration": calibration}).bfloat16().state_dict(), file)
    file.seek(0)
    again = torch.nn.ModuleDict({"calibration": VerdictCalibration()}).half()
    again.load_state_dict(torch.load(file, weights_only=True))
    for name in BUFFERS:
        assert torch.equal(getattr(again["calibration"], name), wanted[name])
        assert getattr(again["calibration"], name).dtype == torch.float32
    assert VerdictCalibration().to("meta").temperature.device.type == "meta"


def test_collections_hand_the_calibrated_probability_to_its_own_metric():
    plain, calibrated = torch.tensor([0.9, 0.8, 0.3, 0.2]), torch.tensor([0.6, 0.55, 0.45, 0.4])
    target = torch.tensor([1, 0, 1, 0])
    metrics = MetricCollection(
        {"ece": BinaryCalibrationError(n_bins=15), "ece_calibrated": CalibratedError()}, compute_groups=False
    )
    metrics.update(preds=plain, target=target, calibrated=calibrated)
    got = metrics.compute()
    assert got["ece"] == binary_calibration_error(plain, target, n_bins=15)
    assert got["ece_calibrated"] == binary_calibration_error(calibrated, target, n_bins=15)
    assert got["ece"] != got["ece_calibrated"]


def test_what_cannot_be_fitted():
    with pytest.raises(ValueError, match=r"model.error_rate=0.5: .* lies in \[0, 0.5\)"):
        VerdictCalibration(0.5)
    with pytest.raises(ValueError, match="must contain 0 and 1"):
        VerdictCalibration().fit(torch.randn(4), torch.ones(4))
    report = VerdictCalibration().fit(torch.tensor([-1.0, 2, -3]), torch.tensor([0, 1, 1]))
    assert report["ece_calibrated"].isnan()  # one real cannot be in both halves
    assert report["ece"].isfinite()
