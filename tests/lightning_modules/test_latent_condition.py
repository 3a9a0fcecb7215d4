"""Conditions from features: standardised, of one length, clustered."""

from __future__ import annotations

import pytest
import torch

from lightning_modules.latent_condition import LatentCondition


def clouds(count=300, seed=0):
    """Three clouds far from the origin, along axes of very different scale, and a dead feature."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.tensor([[0.0, 0.0, 4.0, 0.0], [4.0, 0.0, 0.0, 0.0], [0.0, 4.0, 0.0, 0.0]])
    labels = torch.arange(count) % 3
    points = centres[labels] + 0.2 * torch.randn(count, 4, generator=generator)
    points[:, 3] = 0.7
    return points * torch.tensor([1.0, 100.0, 0.01, 1.0]) + 50, labels


def fitted(mode, **options):
    condition = LatentCondition(mode, 4, **{"clusters": 3, **options})
    condition.fit(clouds()[0])
    return condition


def test_features_are_standardised_and_of_one_length():
    points, _ = clouds()
    condition = fitted("features", norm=5.0)
    found = condition(points)
    torch.testing.assert_close(found.norm(dim=1), torch.full((300,), 5.0))
    deviation = points.double().std(0, correction=0)
    deviation[3] = 1
    expected = torch.nn.functional.normalize((points.double() - points.double().mean(0)) / deviation, dim=1)
    torch.testing.assert_close(found, 5 * expected.float(), atol=1e-4, rtol=1e-4)
    cosine = torch.nn.functional.cosine_similarity(points[0], points[1], dim=0)
    ours = torch.nn.functional.cosine_similarity(found[0], found[1], dim=0)
    assert cosine > 0.9
    assert ours < 0


@pytest.mark.parametrize("mode", ["soft", "hard"])
def test_clusters_are_those_of_the_clouds(mode):
    points, labels = clouds()
    condition = fitted(mode)
    found = condition(points)
    assert found.shape == (300, 3)
    torch.testing.assert_close(found.norm(dim=1), torch.full((300,), 8.0))
    names = found.argmax(1)
    assert len({(int(a), int(b)) for a, b in zip(names, labels, strict=True)}) == 3
    assert torch.equal(names, condition.cluster(condition.unit(points)))
    if mode == "hard":
        assert set(found.unique().tolist()) == {0.0, 8.0}


def test_conditions_of_a_cluster():
    points, _ = clouds()
    condition = fitted("features")
    for cluster in range(3):
        centre = condition.of_cluster(cluster, 2)
        assert torch.equal(centre[0], centre[1])
        members = condition.of_cluster(cluster, 7, "member")
        assert (condition.cluster(members / 8) == cluster).all()
        assert len(members.unique(dim=0)) == 7
        assert (
            torch.cdist(members.double(), condition(points).double()).min(1).values < 1e-3
        ).all()  # of training images
    with pytest.raises(ValueError, match="cluster=3: there are clusters 0 to 2"):
        condition.of_cluster(3, 1)
    with pytest.raises(ValueError, match="pick='best'"):
        condition.of_cluster(0, 1, "best")


def test_a_checkpoint_keeps_the_fit_also_in_half_precision():
    condition, points = fitted("soft"), clouds()[0]
    other = LatentCondition("soft", 4, clusters=3)
    assert not other.fitted
    other.load_state_dict(condition.state_dict())
    assert torch.equal(other(points), condition(points))
    assert torch.equal(other.bfloat16()(points), condition(points))


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="condition='onehot' is not one of features, soft, hard"):
        LatentCondition("onehot", 4)
    with pytest.raises(ValueError, match="clusters=1 must be at least 2"):
        LatentCondition("hard", 4, clusters=1)
    with pytest.raises(RuntimeError, match="not fitted yet"):
        LatentCondition("hard", 4)(torch.zeros(1, 4))
    with pytest.raises(ValueError, match="finite features of at least 3 images, got 300"):
        LatentCondition("hard", 4, clusters=3).fit(clouds()[0] * float("nan"))
