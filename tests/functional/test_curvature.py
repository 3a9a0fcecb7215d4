"""Hessian products against known and dense Hessians, a library, and the LeNet and ResNet-20 of the comparison."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from curvature_data import SPECTRUM, Bowl, LeNet, ResNet20, cross_entropy, synthetic_images, train
from torch import nn

from functional.curvature import GaussNewtonOperator, HessianOperator, eigenpairs
from functional.parameter_vectors import batch_size, flatten, random_vector, split_like


def operator(bowl: Bowl, **kwargs) -> HessianOperator:
    return HessianOperator(bowl.objective, list(bowl.parameters()), [torch.zeros(3, 1)], **kwargs)


@pytest.mark.parametrize("keep_graphs", [False, True, 0.0, 1e9])
def test_product_and_extreme_pairs_of_a_quadratic_bowl(keep_graphs):
    bowl = Bowl()
    hessian = operator(bowl, keep_graphs=keep_graphs)
    vector = random_vector(hessian.size, 1)
    expected = bowl.matrix @ vector
    for _ in range(2):  # kept graphs can be used again
        assert (hessian @ vector - expected).norm() < 1e-6 * expected.norm()
    assert (hessian._graphs is None) == (keep_graphs in (False, 0.0))
    found = eigenpairs(hessian.matvec, vector, top=2, bottom=2, tolerance=1e-8)
    np.testing.assert_allclose(found.top, [100, 10], rtol=1e-5)
    np.testing.assert_allclose(found.bottom, [-1, -0.01], rtol=1e-5)
    residual = found.top_vectors @ bowl.matrix - torch.from_numpy(found.top)[:, None] * found.top_vectors
    assert residual.abs().max() < 1e-4
    assert torch.linalg.vector_norm(found.top_vectors, dim=1).allclose(torch.ones(2, dtype=torch.float64))


def test_gradient_and_curvature_along_it():
    bowl = Bowl()
    hessian = operator(bowl)
    point = torch.cat([bowl.first.flatten(), bowl.second]).detach()
    loss, gradient = hessian.gradient()
    expected = bowl.matrix @ (point - bowl.minimum)
    assert loss == pytest.approx(float(bowl.value(point)))
    torch.testing.assert_close(gradient, expected)
    along = float(expected @ bowl.matrix @ expected / expected.square().sum())
    assert hessian.gradient_curvature() == pytest.approx(along)
    assert all(parameter.grad is None for parameter in bowl.parameters())


class LeastSquares(nn.Module):
    """Linear regression of 240 points; its Hessian is 2 X^T X / n."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.x = torch.randn(240, 6, generator=generator, dtype=torch.float64)
        self.y = torch.randn(240, generator=generator, dtype=torch.float64)
        self.weight = nn.Parameter(torch.zeros(6, dtype=torch.float64))

    def operator(self, size: int, **kwargs) -> HessianOperator:
        batches = list(zip(self.x.split(size), self.y.split(size), strict=True))
        return HessianOperator(
            lambda batch: (batch[0] @ self.weight - batch[1]).square().mean(), [self.weight], batches, **kwargs
        )


@pytest.mark.parametrize("size", [240, 60, 30, 70])
@pytest.mark.parametrize("keep_graphs", [False, True])
def test_eigenvalues_do_not_depend_on_the_batch_size(size, keep_graphs):
    problem = LeastSquares()
    hessian = problem.operator(size, keep_graphs=keep_graphs)
    expected = torch.linalg.eigvalsh(2 * problem.x.T @ problem.x / 240).flip(0).numpy()
    found = eigenpairs(hessian.matvec, random_vector(6, 0), top=2, bottom=2, tolerance=1e-8)
    np.testing.assert_allclose(found.top, expected[:2], rtol=1e-5)
    np.testing.assert_allclose(found.bottom, expected[:-3:-1], rtol=1e-5)
    assert hessian.samples == 240


def test_two_shares_with_a_sum_are_the_whole():
    """What an all-reduce does, by hand: each process adds its share."""
    problem = LeastSquares()
    vector = random_vector(6, 3)
    expected = problem.operator(70) @ vector
    batches = list(zip(problem.x.split(70), problem.y.split(70), strict=True))
    shares = [batches[0::2], batches[1::2]]
    counts = [torch.tensor([float(sum(len(y) for _, y in share))], dtype=torch.float64) for share in shares]
    alone: list[torch.Tensor] = []
    for index, share in enumerate(shares):
        others = [counts[1 - index], torch.zeros(6, dtype=torch.float64)]
        if index == 1:
            others[1] = alone[0]
        received = iter(others)
        part = HessianOperator(
            lambda batch: (batch[0] @ problem.weight - batch[1]).square().mean(),
            [problem.weight],
            share,
            reduce=lambda tensor, received=received: tensor.add_(next(received)),
        )
        alone.append(part @ vector)
        assert part.samples == 240
    torch.testing.assert_close(alone[1], expected)


def dense_hessian(loss, parameters) -> torch.Tensor:
    shapes = [parameter.shape for parameter in parameters]
    point = flatten(parameters)

    def at(vector: torch.Tensor) -> torch.Tensor:
        pieces = vector.split([shape.numel() for shape in shapes])
        return loss([piece.view(shape) for piece, shape in zip(pieces, shapes, strict=True)])

    return torch.autograd.functional.hessian(at, point)


def test_gauss_newton_product_is_that_of_the_dense_matrix():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(40, 5, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 3, (40,), generator=generator)
    network = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    parameters = list(network.parameters())
    batches = list(zip(x.split(15), labels.split(15), strict=True))
    gauss = GaussNewtonOperator(
        lambda batch: (network(batch[0]), lambda logits: F.cross_entropy(logits, batch[1])),
        parameters,
        batches,
        keep_graphs=True,
    )
    names = [name for name, _ in network.named_parameters()]

    def logits(*tensors: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(network, dict(zip(names, tensors, strict=True)), (x,))

    jacobian = torch.cat(
        [part.flatten(2) for part in torch.autograd.functional.jacobian(logits, tuple(parameters))], dim=2
    )
    p = network(x).softmax(dim=1).detach()
    inner = torch.diag_embed(p) - p[:, :, None] * p[:, None]
    matrix = torch.einsum("nci,ncd,ndj->ij", jacobian, inner, jacobian) / 40
    identity = torch.eye(gauss.size, dtype=torch.float64)
    for _ in range(2):
        torch.testing.assert_close(torch.stack([gauss @ row for row in identity]), matrix)
    assert torch.linalg.eigvalsh(matrix)[0] > -1e-12
    loss, _ = gauss.gradient()
    assert loss == pytest.approx(float(F.cross_entropy(network(x), labels).detach()))


def test_parameters_that_do_not_bend_the_loss_have_no_curvature():
    weight, unused = (nn.Parameter(torch.ones(2, dtype=torch.float64)) for _ in range(2))
    hessian = HessianOperator(lambda batch: (batch @ weight).mean(), [weight, unused], [torch.ones(3, 2).double()])
    assert not (hessian @ random_vector(4, 0)).any()


def test_random_numbers_of_the_loss_repeat_and_the_stream_goes_on():
    weight = nn.Parameter(torch.ones(4, dtype=torch.float64))

    def noisy(batch: torch.Tensor) -> torch.Tensor:
        return (torch.randn(4, dtype=torch.float64) * weight).square().sum() + batch.sum() * 0

    state = torch.get_rng_state()
    hessian = HessianOperator(noisy, [weight], [torch.ones(1).double(), torch.ones(1).double()])
    vector = random_vector(4, 0)
    assert torch.equal(hessian @ vector, hessian @ vector)
    assert torch.equal(torch.get_rng_state(), state)


def test_products_in_inference_mode():
    bowl = Bowl()
    with torch.inference_mode():
        product = operator(bowl) @ random_vector(50, 1)
    torch.testing.assert_close(product, bowl.matrix @ random_vector(50, 1))


def test_what_cannot_be_differentiated_twice_is_said():
    """Fused attention has no second derivative."""
    weight = nn.Parameter(torch.ones(2, 2, 8, 4))
    hessian = HessianOperator(
        lambda batch: F.scaled_dot_product_attention(weight, weight, weight).square().sum(), [weight], [torch.ones(1)]
    )
    with pytest.raises(RuntimeError, match="cannot be differentiated twice"):
        hessian @ torch.ones(128)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"parameters": []}, "at least one parameter"),
        ({"parameters": [torch.ones(2)]}, "require gradients"),
        ({"batches": []}, "0 batches"),
        ({"counts": [0]}, r"counts=\[0\]"),
        ({"counts": [1, 2]}, "1 batches"),
    ],
)
def test_refusals(change, message):
    arguments = {"parameters": [nn.Parameter(torch.ones(2))], "batches": [torch.ones(1)]} | change
    with pytest.raises(ValueError, match=message):
        HessianOperator(lambda batch: batch.sum(), **arguments)


def test_vectors_of_the_wrong_length_are_refused():
    with pytest.raises(ValueError, match=r"50 entries, the vector has shape \(49,\)"):
        operator(Bowl()) @ torch.ones(49)
    with pytest.raises(ValueError, match="no batch size"):
        batch_size({"path": ["a"]})
    assert batch_size({"path": ["a", "b"], "label": [torch.zeros(()), torch.ones(7, 2)]}) == 7
    assert [tuple(piece.shape) for piece in split_like(torch.ones(6), [torch.ones(2, 2), torch.ones(2)])] == [
        (2, 2),
        (2,),
    ]


@pytest.fixture(scope="module")
def lenet():
    batches = synthetic_images(2000, 250)
    return *train(LeNet, 8, batches), batches


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # in a dependency of the library
def test_eigenvalues_of_the_lenet_and_of_a_library(lenet):
    """GradVis' own code reports 328.22 here, eight batches times too much."""
    from curvlinops import HessianLinearOperator

    network, _, batches = lenet
    parameters = list(network.parameters())
    hessian = HessianOperator(cross_entropy(network), parameters, batches, keep_graphs=True)
    assert hessian.size == 62_006
    found = eigenpairs(hessian.matvec, random_vector(hessian.size, 0).float(), top=2, tolerance=1e-4)
    np.testing.assert_allclose(found.top, [41.027, 26.132], rtol=1e-3)
    assert found.steps <= 15
    library = HessianLinearOperator(network, nn.CrossEntropyLoss(), parameters, batches, check_deterministic=False)
    vector = found.top_vectors[0]
    image = torch.as_tensor(library @ vector)
    assert float(vector @ image) == pytest.approx(found.top[0], rel=1e-3)
    assert (image - float(found.top[0]) * vector).norm() < 0.02 * found.top[0]


@pytest.mark.slow
def test_eigenvalues_of_the_residual_network():
    batches = synthetic_images(128, 64)
    network, _ = train(ResNet20, 3, batches)
    hessian = HessianOperator(cross_entropy(network), list(network.parameters()), batches, keep_graphs=True)
    assert hessian.size == 272_474
    found = eigenpairs(hessian.matvec, random_vector(hessian.size, 0).float(), top=2, tolerance=1e-3)
    np.testing.assert_allclose(found.top, [22.711, 15.028], rtol=1e-3)


def test_spectrum_of_the_bowl_is_what_the_tests_assume():
    np.testing.assert_allclose(np.linalg.eigvalsh(Bowl().matrix.numpy()), sorted(SPECTRUM), atol=1e-10)
