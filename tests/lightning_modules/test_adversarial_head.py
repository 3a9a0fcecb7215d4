"""Fitted heads against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, MinMaxScaler, StandardScaler
from sklearn.svm import SVC

from lightning_modules.adversarial_head import AdversarialHead


def spectra(count=120, width=40, seed=0):
    """Features of very different sizes, as spectra have them, with a constant one."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    x = rng.normal(size=(count, width)) + 0.7 * labels[:, None] * rng.normal(size=width)
    x = x * np.logspace(0, 3, width)
    x[:, 3] = 7.0
    return x, labels


SCALERS = {"none": FunctionTransformer(), "standard": StandardScaler(), "minmax": MinMaxScaler()}


@pytest.mark.parametrize("scaler", SCALERS)
@pytest.mark.parametrize("name", ["logistic_regression", "svm_rbf", "svm_linear"])
def test_scores_equal_scikit_learn(name, scaler):
    (x, y), (new, _) = spectra(), spectra(30, seed=1)
    if name == "svm_linear" and scaler == "none":
        x, new = x / 1e3, new / 1e3  # libsvm does not end on the raw scale
    head = AdversarialHead(name, C=2.0, gamma=0.1, scaler=scaler)
    head.fit(torch.from_numpy(x), torch.from_numpy(y))
    machines = {
        "logistic_regression": LogisticRegression(solver="liblinear", C=2.0, max_iter=1000, random_state=0),
        "svm_rbf": SVC(C=2.0, gamma=0.1),
        "svm_linear": SVC(C=2.0, kernel="linear"),
    }
    reference = make_pipeline(SCALERS[scaler], machines[name]).fit(x, y)
    np.testing.assert_allclose(
        head(torch.from_numpy(new)).numpy(), reference.decision_function(new), rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize(
    ("name", "tolerance"), [("svm_rbf", 1e-6), ("svm_linear", 1e-3), ("logistic_regression", 1e-2)]
)
def test_more_features_than_images_give_the_same_scores(name, tolerance):
    """The rotation changes nothing but where the solvers stop within their own tolerance."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(60, 300)) + 0.2 * (np.arange(60) % 2)[:, None], np.arange(60) % 2
    head = AdversarialHead(name, gamma=0.003)
    head.fit(torch.from_numpy(x), torch.from_numpy(y))
    machine = {
        "logistic_regression": LogisticRegression(solver="liblinear", tol=1e-8, max_iter=10_000),
        "svm_rbf": SVC(gamma=0.003),
        "svm_linear": SVC(kernel="linear"),
    }[name].fit(x, y)
    new = rng.normal(size=(20, 300))
    np.testing.assert_allclose(head(torch.from_numpy(new)).numpy(), machine.decision_function(new), atol=tolerance)


def test_a_checkpoint_keeps_the_scaling():
    x, y = (torch.from_numpy(part) for part in spectra())
    source, target = AdversarialHead(scaler="minmax"), AdversarialHead(scaler="minmax")
    source.fit(x, y)
    target.load_state_dict(source.state_dict())
    assert torch.equal(target(x), source(x))


def test_score_is_differentiable():
    x, y = (torch.from_numpy(part) for part in spectra())
    head = AdversarialHead("svm_rbf", scaler="standard")
    head.fit(x, y)
    assert torch.autograd.gradcheck(head, x[:3].clone().requires_grad_(), atol=1e-6)


def test_refuses_unknown_names():
    with pytest.raises(ValueError, match=r"model.head='kmeans' is not one of logistic_regression"):
        AdversarialHead("kmeans")
    with pytest.raises(ValueError, match=r"model.scaler='robust' is not one of none"):
        AdversarialHead(scaler="robust")
