"""Heads on spectra: scikit-learn's own decisions, buffers of any shape, types, messages."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from sklearn.linear_model import LogisticRegression
from sklearn.svm import SVC
from torch import nn

from lightning_modules.fitted_heads import FITTED_HEADS, FeatureRange, FittedHead, SpectrumMLP


def two_classes(count: int = 120, features: int = 10, apart: float = 0.4, seed: int = 0):
    """Overlapping clouds, balanced."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    x = rng.normal(size=(count, features)) * 0.3 + apart * labels[:, None] * np.linspace(0, 1, features)
    return torch.from_numpy(x), torch.from_numpy(labels)


def reference(name: str, features: int):
    """The authors' estimators."""
    return {
        "svm_rbf": SVC(kernel="rbf", C=6.37, gamma=0.86),
        "svm_linear": SVC(kernel="linear", C=1),
        "svm_poly": SVC(kernel="poly", degree=3, gamma=1 / features),
        "logistic_regression": LogisticRegression(solver="liblinear", max_iter=1000, random_state=0),
    }[name]


@pytest.mark.parametrize("name", [name for name in FITTED_HEADS if name != "kmeans"])
@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 1000), features=st.integers(2, 80))
def test_scores_are_scikit_learns_decisions(name, seed, features):
    x, y = two_classes(features=features, seed=seed)
    unseen = two_classes(features=features, seed=seed + 1)[0]
    head = FittedHead(name)
    head.fit(x, y)
    expected = reference(name, features).fit(x.numpy(), y.numpy()).decision_function(unseen.numpy())
    np.testing.assert_allclose(head(unseen), expected, rtol=0, atol=1e-9)
    assert head(unseen).dtype == torch.float64


@pytest.mark.parametrize("name", ["svm_rbf", "svm_poly"])
@pytest.mark.parametrize("gamma", [0.3, "auto", "scale"])
def test_kernel_widths_and_strength_are_scikit_learns(name, gamma):
    x, y = two_classes()
    head = FittedHead(name, C=0.5, gamma=gamma)
    head.fit(x, y)
    machine = SVC(kernel=name.removeprefix("svm_"), degree=3, C=0.5, gamma=gamma).fit(x.numpy(), y.numpy())
    np.testing.assert_allclose(head(x), machine.decision_function(x.numpy()), rtol=0, atol=1e-9)


def test_standardised_features_are_those_of_a_scaler():
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    x, y = two_classes()
    x = x * 50 - 300
    head = FittedHead("svm_rbf", standardize=True)
    head.fit(x, y)
    machine = make_pipeline(StandardScaler(), SVC(C=6.37, gamma="scale")).fit(x.numpy(), y.numpy())
    np.testing.assert_allclose(head(x), machine.decision_function(x.numpy()), rtol=0, atol=1e-9)


def test_kmeans_finds_clusters_without_labels():
    x, y = two_classes(apart=3.0)
    head = FittedHead("kmeans")
    head.fit(x, y)
    clusters = KMeans(2, n_init=10, random_state=0).fit(x.numpy())
    centres = clusters.cluster_centers_
    distances = ((x.numpy()[:, None] - centres) ** 2).sum(-1)
    fake = centres[:, -1].argmax()
    np.testing.assert_allclose(head(x), distances[:, 1 - fake] - distances[:, fake], atol=1e-9)
    assert ((head(x) > 0) == (y == 1)).all()
    # The labels name the clusters and do nothing else: a few wrong ones change no score.
    wrong = y.clone()
    wrong[:30] = 1 - wrong[:30]
    other = FittedHead("kmeans")
    other.fit(x, wrong)
    torch.testing.assert_close(other(x), head(x))


@pytest.mark.parametrize("name", FITTED_HEADS)
def test_state_travels_through_plain_checkpoints(name, tmp_path):
    x, y = two_classes()
    head = FittedHead(name)
    assert not head.fitted
    head.fit(x, y)
    torch.save(nn.Sequential(head).state_dict(), tmp_path / "head.pt")
    fresh = nn.Sequential(FittedHead(name))
    fresh.load_state_dict(torch.load(tmp_path / "head.pt", weights_only=True))
    assert fresh[0].fitted
    torch.testing.assert_close(fresh(x), head(x), rtol=0, atol=0)


def test_half_precision_around_it_does_not_round_it():
    x, y = two_classes()
    model = nn.Sequential(FittedHead("svm_rbf"))
    model.bfloat16()
    model[0].fit(x, y)
    expected = model(x)
    torch.testing.assert_close(model.bfloat16().half()(x), expected, rtol=0, atol=0)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(model(x), expected, rtol=0, atol=0)


def test_scores_have_gradients_and_compile_in_one_graph():
    x, y = two_classes(features=4)
    head = FittedHead("svm_rbf")
    head.fit(x, y)
    assert torch.autograd.gradcheck(head, x[:3].clone().requires_grad_())
    compiled = torch.compile(head, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x), head(x))


def test_refusals():
    head = FittedHead("svm_rbf")
    with pytest.raises(RuntimeError, match="not fitted yet"):
        head(torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"labels \[1\]"):
        head.fit(torch.rand(4, 3), torch.ones(4))
    with pytest.raises(ValueError, match="1 images are not finite"):
        head.fit(torch.tensor([[0.0], [float("nan")]]), torch.tensor([0, 1]))
    head.fit(torch.rand(4, 3), torch.tensor([0, 1, 0, 1]))
    with pytest.raises(ValueError, match="5 features for a svm_rbf head fitted on 3"):
        head(torch.zeros(2, 5))
    with pytest.raises(ValueError, match="no head that is fitted"):
        FittedHead("tree")
    with pytest.raises(ValueError, match="7 features reach a network built for 3"):
        SpectrumMLP(3)(torch.zeros(2, 7))


def test_mlp_takes_a_single_image_and_learns():
    torch.manual_seed(0)
    x, y = two_classes(apart=1.0)
    x = 100 * x + 300
    network = SpectrumMLP(10, hidden=16)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    for _ in range(150):
        optimizer.zero_grad()
        nn.functional.binary_cross_entropy_with_logits(network(x), y.float()).backward()
        optimizer.step()
    network(x[:1])  # in training, where a batch of one has no variance
    network.eval()
    assert ((network(x) > 0) == (y == 1)).float().mean() > 0.95


def test_range_measures_the_worst_feature_in_widths():
    seen = FeatureRange()
    assert (seen.excess(torch.ones(2, 2)) == 0).all()
    seen.update(torch.tensor([[0.0, 10.0], [1.0, 20.0]]).double())
    seen.update(torch.tensor([[2.0, 15.0]]).double())
    probes = torch.tensor([[1.0, 12.0], [3.0, 20.0], [-4.0, 25.0], [0.0, 30.0]]).double()
    torch.testing.assert_close(seen.excess(probes), torch.tensor([0.0, 0.5, 2.0, 1.0]).double())
    fresh = FeatureRange()
    fresh.load_state_dict(seen.state_dict())
    torch.testing.assert_close(fresh.excess(probes), seen.excess(probes))


@pytest.mark.gpu
def test_scores_on_a_gpu():
    x, y = two_classes()
    head = FittedHead("svm_rbf").cuda()
    head.fit(x.cuda(), y.cuda())
    on_cpu = FittedHead("svm_rbf")
    on_cpu.fit(x, y)
    torch.testing.assert_close(head(x.cuda()).cpu(), on_cpu(x))
