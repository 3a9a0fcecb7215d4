"""Second derivatives of a loss over a data set, as products with vectors.

A product costs one backward pass through the gradient (Pearlmutter 1994). The loss of each batch is its mean over
samples; batches are weighted by their sample counts, so a result does not depend on how samples were batched.
Eigenvalues, traces and densities follow from products alone: see :mod:`functional.lanczos` and
:mod:`functional.spectral_density`. Source: Chatzimichailidis et al. 2019 (GradVis), Sec. 3.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from functional.lanczos import eigenpairs, lanczos
from functional.parameter_vectors import batch_size, flatten, fork_seed, split_like
from functional.spectral_density import hutchinson_trace, negative_mass, spectral_density, stochastic_lanczos

__all__ = [
    "GaussNewtonOperator",
    "HessianOperator",
    "eigenpairs",
    "hutchinson_trace",
    "lanczos",
    "negative_mass",
    "spectral_density",
    "stochastic_lanczos",
]

Graph = tuple[float, tuple[Any, ...]]


class HessianOperator:
    """Hessian of the mean loss over batches, as a linear operator on flat parameter vectors.

    Parameters, buffers and modes must not change between products. Under ``torch.inference_mode`` it switches
    gradients on by itself, for which the batches must not be inference tensors.

    Args:
        loss: mean loss of a batch, a scalar tensor that can be differentiated twice.
        parameters: leaf tensors that require gradients; those that the loss does not use count as constant.
        batches: the data, of any type that ``loss`` takes; this process's share if there are several.
        counts: samples of each batch; by default the length of the first tensor in it.
        keep_graphs: keep the graph of each batch's gradient, so that a product redoes its backward pass only: a third
            less time for the memory of all graphs. A number is the most bytes that they may take; where they would take
            more, none is kept.
        reduce: adds up a tensor over processes in place, where each holds a share of the batches: one call per
            product.
        seed: of random numbers that ``loss`` draws; each batch sees the same ones in every product.

    Raises:
        ValueError: if there are no batches or no parameters, or counts are not positive.
    """

    def __init__(
        self,
        loss: Callable[[Any], Tensor],
        parameters: Sequence[Tensor],
        batches: Sequence[Any],
        counts: Sequence[int] | None = None,
        *,
        keep_graphs: bool | float = False,
        reduce: Callable[[Tensor], None] | None = None,
        seed: int = 0,
    ) -> None:
        self.loss, self.parameters, self.batches = loss, list(parameters), list(batches)
        if not self.parameters or not all(parameter.requires_grad for parameter in self.parameters):
            raise ValueError("HessianOperator needs at least one parameter, all of which require gradients.")
        counts = [batch_size(batch) for batch in self.batches] if counts is None else list(counts)
        self.reduce, self.seed, self.keep_graphs = reduce, seed, keep_graphs
        self.device, self.dtype = self.parameters[0].device, self.parameters[0].dtype
        total = torch.tensor([float(sum(counts))], dtype=torch.float64, device=self.device)
        if reduce is not None:
            reduce(total)
        if (not self.batches and reduce is None) or len(counts) != len(self.batches) or min(counts, default=1) < 1:
            raise ValueError(
                f"HessianOperator: {len(self.batches)} batches with counts={counts}; needed is a positive sample "
                "count for each of at least one batch."
            )
        self.samples = int(total)
        self.weights = [count / float(total) for count in counts]
        self.size = sum(parameter.numel() for parameter in self.parameters)
        self.products = 0
        self._graphs: list[Graph] | None = None

    def __matmul__(self, vector: Tensor) -> Tensor:
        """Product with a vector ``(D,)``."""
        return self.matvec(vector)

    def matvec(self, vector: Tensor) -> Tensor:
        """Product with a vector.

        Args:
            vector: shape ``(D,)``; brought to the dtype and device of the parameters.

        Returns:
            Shape ``(D,)``, in the dtype of the parameters.

        Raises:
            ValueError: if the vector has the wrong length.
            RuntimeError: if the loss cannot be differentiated twice.
        """
        with torch.inference_mode(False), torch.enable_grad():
            vector = vector.detach().to(self.device, self.dtype)
            if vector.is_inference():  # which autograd may not save
                vector = vector.clone()
            pieces = split_like(vector, self.parameters)
            result = torch.zeros(self.size, dtype=self.dtype, device=self.device)
            if self._graphs is None and self._graphs_fit():
                self._graphs = [self._graph_of(index) for index in range(len(self.batches))]
            for index in range(len(self.batches)):
                kept = self._graphs is not None
                weight, graph = self._graphs[index] if self._graphs is not None else self._graph_of(index)
                result.add_(flatten(self._twice(graph, pieces, kept)), alpha=weight)
                del graph
        if self.reduce is not None:
            self.reduce(result)
        self.products += 1
        return result

    def gradient(self) -> tuple[float, Tensor]:
        """Mean loss, and its gradient ``(D,)``."""
        with torch.inference_mode(False), torch.enable_grad():
            result = torch.zeros(self.size + 1, dtype=self.dtype, device=self.device)
            for index, weight in enumerate(self.weights):
                loss = self._loss(index)
                gradients = torch.autograd.grad(loss, self.parameters, materialize_grads=True)
                result.add_(torch.cat([flatten(gradients), loss.detach().reshape(1)]), alpha=weight)
        if self.reduce is not None:
            self.reduce(result)
        return float(result[-1]), result[:-1]

    def gradient_curvature(self) -> float:
        """Curvature along the gradient, ``g^T H g / |g|^2``; zero where the gradient vanishes."""
        _, gradient = self.gradient()
        square = gradient.square().sum()
        return float(gradient @ self.matvec(gradient) / square) if square > 0 else 0.0

    def release(self) -> None:
        """Let go of kept graphs."""
        self._graphs = None

    def _loss(self, index: int) -> Tensor:
        with fork_seed(self.seed + index, self.device):
            return self.loss(self.batches[index])

    def _graph_of(self, index: int) -> Graph:
        """Weight of a batch, and its gradient with its graph."""
        loss = self._loss(index)
        gradients = torch.autograd.grad(loss, self.parameters, create_graph=True, materialize_grads=True)
        return self.weights[index], gradients

    def _twice(self, graph: tuple[Any, ...], vector: list[Tensor], kept: bool) -> Sequence[Tensor]:
        """Product of one batch's Hessian with a vector."""
        pairs = [(g, v) for g, v in zip(graph, vector, strict=True) if g.requires_grad]  # the others are constant
        if not pairs:
            return [torch.zeros_like(parameter) for parameter in self.parameters]
        gradients, weights = zip(*pairs, strict=True)
        try:
            return torch.autograd.grad(gradients, self.parameters, weights, retain_graph=kept, materialize_grads=True)
        except RuntimeError as error:
            if not any(word in str(error) for word in ("derivative", "double", "twice")):
                raise
            raise RuntimeError(
                "The loss cannot be differentiated twice. Fused attention, cuDNN's recurrent layers and compiled "
                f"networks cannot; use their plain forms. PyTorch says: {error}"
            ) from error

    def _graphs_fit(self) -> bool:
        if isinstance(self.keep_graphs, bool) or not self.batches:
            return bool(self.keep_graphs)
        sizes: dict[int, int] = {}

        def count(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            sizes[storage.data_ptr()] = storage.nbytes()
            return tensor.detach()  # the tensor itself would keep its own graph alive

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            kept = self._graph_of(0)
        largest = max(self.weights) / self.weights[0]
        needed = sum(sizes.values()) * len(self.batches) * largest
        del kept
        return needed <= self.keep_graphs


class GaussNewtonOperator(HessianOperator):
    """Generalised Gauss-Newton matrix ``J^T H_L J``: the Hessian without the curvature of the network itself.

    It is positive semi-definite where the loss is convex in the network's outputs.

    Args:
        split: gives a batch's outputs, any shape, and a function from outputs to the mean loss.
        parameters: as for :class:`HessianOperator`.
        batches: as for :class:`HessianOperator`.
        counts: as for :class:`HessianOperator`.
        kwargs: as for :class:`HessianOperator`.
    """

    def __init__(
        self,
        split: Callable[[Any], tuple[Tensor, Callable[[Tensor], Tensor]]],
        parameters: Sequence[Tensor],
        batches: Sequence[Any],
        counts: Sequence[int] | None = None,
        **kwargs: Any,
    ) -> None:
        def loss(batch: Any) -> Tensor:
            outputs, criterion = split(batch)
            return criterion(outputs)

        super().__init__(loss, parameters, batches, counts, **kwargs)
        self.split = split

    def _graph_of(self, index: int) -> Graph:
        with fork_seed(self.seed + index, self.device):
            outputs, criterion = self.split(self.batches[index])
        dummy = torch.zeros_like(outputs, requires_grad=True)  # J^T u is linear in u; its derivative by u gives J
        pulled = torch.autograd.grad(outputs, self.parameters, dummy, create_graph=True, materialize_grads=True)
        at = outputs.detach().requires_grad_()
        (slope,) = torch.autograd.grad(criterion(at), at, create_graph=True)
        return self.weights[index], (outputs, dummy, pulled, at, slope)

    def _twice(self, graph: tuple[Any, ...], vector: list[Tensor], kept: bool) -> Sequence[Tensor]:
        outputs, dummy, pulled, at, slope = graph
        pairs = [(p, v) for p, v in zip(pulled, vector, strict=True) if p.requires_grad]
        if not pairs or not slope.requires_grad:
            return [torch.zeros_like(parameter) for parameter in self.parameters]
        tangents, weights = zip(*pairs, strict=True)
        (pushed,) = torch.autograd.grad(tangents, dummy, weights, retain_graph=True)
        (curved,) = torch.autograd.grad(slope, at, pushed, retain_graph=kept)
        return torch.autograd.grad(outputs, self.parameters, curved, retain_graph=kept, materialize_grads=True)
