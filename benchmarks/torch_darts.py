"""Plain PyTorch networks and search steps, to measure against and to compare numbers with.

Written from the papers: the supernet, the bilevel step and the evaluation network of DARTS (Liu et al. 2019,
https://arxiv.org/abs/1806.09055), and the supernet of NAS-Bench-201 (Dong & Yang 2020,
https://arxiv.org/abs/2001.00326). Data are [B, C, H, W] in PyTorch's order of axes, channels-last in memory unless told
otherwise. The step computes only the gradients it uses and never waits for the device.

    python -m benchmarks.torch_darts --batch 64 --channels 16 --cells 8 --order second --repeats 3

prints one JSON object a line. Needs PyTorch alone, of the packages that the project knows. Where other programs want
the same cores, set OMP_WAIT_POLICY=passive: waiting threads of PyTorch spin, and keep working ones off their cores.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import platform
import resource
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.sizes import Name, Sizes

Batch = tuple[Tensor, Tensor]
"""Images [B, 3, H, W] and labels int64 [B]."""

DARTS_OPERATIONS = (
    "none",
    "max_pool_3x3",
    "avg_pool_3x3",
    "skip_connect",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "dil_conv_3x3",
    "dil_conv_5x5",
)
NASBENCH201_OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
NODES = 4

# The cell found by the second-order search of the paper: two (operation, input) pairs a node.
DARTS_V2 = {
    "normal": (
        ("sep_conv_3x3", 0), ("sep_conv_3x3", 1), ("sep_conv_3x3", 0), ("sep_conv_3x3", 1),
        ("sep_conv_3x3", 1), ("skip_connect", 0), ("skip_connect", 0), ("dil_conv_3x3", 2),
    ),
    "reduction": (
        ("max_pool_3x3", 0), ("max_pool_3x3", 1), ("skip_connect", 2), ("max_pool_3x3", 1),
        ("max_pool_3x3", 0), ("skip_connect", 2), ("skip_connect", 2), ("max_pool_3x3", 1),
    ),
}  # fmt: skip


class Settings(NamedTuple):
    """Hyper-parameters of a search; the defaults are those of DARTS on CIFAR-10."""

    learning_rate: float = 0.025
    momentum: float = 0.9
    weight_decay: float = 3e-4
    nesterov: bool = False
    clip: float = 5.0
    alpha_learning_rate: float = 3e-4
    alpha_betas: tuple[float, float] = (0.5, 0.999)
    alpha_weight_decay: float = 1e-3
    epsilon: float = 0.01
    """Length of the two perturbations of the weights in the central difference."""


DARTS_SETTINGS = Settings()
NASBENCH201_SETTINGS = Settings(weight_decay=5e-4, nesterov=True)


def norm(channels: int, affine: bool, track: bool = False) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, affine=affine, track_running_stats=track)


class ReLUConvNorm(nn.Module):
    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, affine: bool, track: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
        self.norm = norm(outputs, affine, track)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(F.relu(x)))


class DepthwiseSeparable(nn.Module):
    """ReLU, depthwise convolution, pointwise convolution, norm; `repeats` times, the stride on the first."""

    def __init__(
        self, channels: int, kernel: int, stride: int, dilation: int, repeats: int, affine: bool, track: bool = False
    ) -> None:
        super().__init__()
        self.repeats = repeats
        padding = dilation * (kernel // 2)
        for i in range(repeats):
            s = stride if i == 0 else 1
            depthwise = nn.Conv2d(channels, channels, kernel, s, padding, dilation, groups=channels, bias=False)
            self.add_module(f"depthwise{i}", depthwise)
            self.add_module(f"pointwise{i}", nn.Conv2d(channels, channels, 1, bias=False))
            self.add_module(f"norm{i}", norm(channels, affine, track))

    def forward(self, x: Tensor) -> Tensor:
        for i in range(self.repeats):
            x = getattr(self, f"pointwise{i}")(getattr(self, f"depthwise{i}")(F.relu(x)))
            x = getattr(self, f"norm{i}")(x)
        return x


class FactorisedReduce(nn.Module):
    """Halves the image: two strided pointwise convolutions, the second one pixel further, side by side."""

    def __init__(self, inputs: int, outputs: int, affine: bool, track: bool = False) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs // 2, 1, stride=2, bias=False)
        self.second = nn.Conv2d(inputs, outputs - outputs // 2, 1, stride=2, bias=False)
        self.norm = norm(outputs, affine, track)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(x)
        return self.norm(torch.cat([self.first(x), self.second(x[:, :, 1:, 1:])], dim=1))


class Pool(nn.Module):
    def __init__(self, kind: str, stride: int) -> None:
        super().__init__()
        self.kind, self.stride = kind, stride

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "max_pool_3x3":
            return F.max_pool2d(x, 3, self.stride, padding=1)
        return F.avg_pool2d(x, 3, self.stride, padding=1, count_include_pad=False)


def darts_operation(name: str, channels: int, stride: int, search: bool) -> nn.Module:
    """Norms in search have no scale and pools are normalized; in the evaluation network it is the reverse."""
    affine = track = not search
    match name:
        case "max_pool_3x3" | "avg_pool_3x3":
            pool = Pool(name, stride)
            return nn.Sequential(pool, norm(channels, affine=False)) if search else pool
        case "skip_connect":
            return nn.Identity() if stride == 1 else FactorisedReduce(channels, channels, affine, track)
        case "sep_conv_3x3" | "sep_conv_5x5":
            return DepthwiseSeparable(channels, int(name[-1]), stride, 1, 2, affine, track)
        case "dil_conv_3x3" | "dil_conv_5x5":
            return DepthwiseSeparable(channels, int(name[-1]), stride, 2, 1, affine, track)
    raise ValueError(f"no operation of DARTS is called {name!r}; there are {DARTS_OPERATIONS}")


def nasbench201_operation(name: str, channels: int) -> nn.Module:
    match name:
        case "skip_connect":
            return nn.Identity()
        case "nor_conv_1x1" | "nor_conv_3x3":
            return ReLUConvNorm(channels, channels, int(name[-1]), 1, affine=False)
        case "avg_pool_3x3":
            return Pool(name, 1)
    raise ValueError(f"no operation of NAS-Bench-201 is called {name!r}; there are {NASBENCH201_OPERATIONS}")


class MixedOperation(nn.ModuleDict):
    """The sum of an edge's operations times weights [O]; "none", the first of them, adds nothing and is left out."""

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        return sum(w * operation(x) for w, operation in zip(weights[1:].unbind(), self.values(), strict=True))


class DartsCell(nn.Module):
    """Edges are numbered by the node they enter, then by the one they leave: 0→2, 1→2, 0→3, 1→3, 2→3, 0→4, …"""

    def __init__(self, inputs0: int, inputs1: int, channels: int, reduction: bool, previous_reduction: bool) -> None:
        super().__init__()
        self.kind = "reduction" if reduction else "normal"
        self.preprocess0: nn.Module = (
            FactorisedReduce(inputs0, channels, affine=False)
            if previous_reduction
            else ReLUConvNorm(inputs0, channels, 1, 1, affine=False)
        )
        self.preprocess1 = ReLUConvNorm(inputs1, channels, 1, 1, affine=False)
        self.edges = nn.ModuleList()
        for node in range(NODES):
            for source in range(2 + node):
                stride = 2 if reduction and source < 2 else 1
                operations = {n: darts_operation(n, channels, stride, search=True) for n in DARTS_OPERATIONS[1:]}
                self.edges.append(MixedOperation(operations))

    def forward(self, s0: Tensor, s1: Tensor, weights: Tensor) -> Tensor:
        states = [self.preprocess0(s0), self.preprocess1(s1)]
        edge_weights = weights.unbind()
        first = 0
        for _ in range(NODES):
            entering = slice(first, first + len(states))
            first = entering.stop
            states.append(
                sum(f(x, w) for x, f, w in zip(states, self.edges[entering], edge_weights[entering], strict=True))
            )
        return torch.cat(states[2:], dim=1)


class Stem(nn.Module):
    def __init__(self, channels: int, track: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, channels, 3, padding=1, bias=False)
        self.norm = norm(channels, True, track)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))


class Plan(NamedTuple):
    """A cell of a DARTS network: the channels of its two inputs and its own, whether it and the one before halve."""

    inputs0: int
    inputs1: int
    channels: int
    reduction: bool
    previous_reduction: bool


def cell_plan(channels: int, cells: int) -> Iterator[Plan]:
    inputs0 = inputs1 = 3 * channels
    previous = False
    for i in range(cells):
        reduction = i in (cells // 3, 2 * cells // 3)
        channels *= 2 if reduction else 1
        yield Plan(inputs0, inputs1, channels, reduction, previous)
        inputs0, inputs1, previous = inputs1, NODES * channels, reduction


class DartsSupernet(nn.Module):
    """The supernet of DARTS. forward: (x [B, 3, H, W], weights {"normal": [14, 8], "reduction": [14, 8]}) -> [B, K]."""

    alpha_shapes: ClassVar = {kind: (14, len(DARTS_OPERATIONS)) for kind in ("normal", "reduction")}

    def __init__(self, channels: int = 16, cells: int = 8, classes: int = 10) -> None:
        super().__init__()
        self.stem = Stem(3 * channels)
        plans = list(cell_plan(channels, cells))
        self.cells = nn.ModuleList(DartsCell(*plan) for plan in plans)
        self.classifier = nn.Linear(NODES * plans[-1].channels, classes)

    def forward(self, x: Tensor, weights: dict[str, Tensor]) -> Tensor:
        s0 = s1 = self.stem(x)
        for cell in self.cells:
            s0, s1 = s1, cell(s0, s1, weights[cell.kind])
        return self.classifier(s1.mean((2, 3)))


class NasBench201Cell(nn.Module):
    """Edges are numbered 0→1, 0→2, 1→2, 0→3, 1→3, 2→3."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.kind = "cell"
        self.edges = nn.ModuleList(
            MixedOperation({n: nasbench201_operation(n, channels) for n in NASBENCH201_OPERATIONS[1:]})
            for _ in range(6)
        )

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        states = [x]
        edge_weights = weights.unbind()
        first = 0
        for _ in range(3):
            entering = slice(first, first + len(states))
            first = entering.stop
            states.append(
                sum(f(s, w) for s, f, w in zip(states, self.edges[entering], edge_weights[entering], strict=True))
            )
        return states[-1]


class ResidualBlock(nn.Module):
    """Halves the image between the stages of NAS-Bench-201."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first = ReLUConvNorm(inputs, outputs, 3, 2, affine=True)
        self.second = ReLUConvNorm(outputs, outputs, 3, 1, affine=True)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut(F.avg_pool2d(x, 2)) + self.second(self.first(x))


class NasBench201Supernet(nn.Module):
    """The supernet of NAS-Bench-201, three stages of `cells` cells. forward as above, weights {"cell": [6, 5]}."""

    alpha_shapes: ClassVar = {"cell": (6, len(NASBENCH201_OPERATIONS))}

    def __init__(self, channels: int = 16, cells: int = 5, classes: int = 10) -> None:
        super().__init__()
        self.stem = Stem(channels)
        stages: list[nn.Module] = []
        for stage in range(3):
            if stage > 0:
                stages.append(ResidualBlock(channels, 2 * channels))
                channels *= 2
            stages.extend(NasBench201Cell(channels) for _ in range(cells))
        self.cells = nn.ModuleList(stages)
        self.norm = norm(channels, affine=True)
        self.classifier = nn.Linear(channels, classes)

    def forward(self, x: Tensor, weights: dict[str, Tensor]) -> Tensor:
        x = self.stem(x)
        for cell in self.cells:
            x = cell(x, weights["cell"]) if isinstance(cell, NasBench201Cell) else cell(x)
        return self.classifier(F.relu(self.norm(x)).mean((2, 3)))


class DerivedCell(nn.Module):
    """A cell of the evaluation network; drop-path spares the identities and scales what it keeps."""

    def __init__(self, inputs0: int, inputs1: int, channels: int, reduction: bool, previous_reduction: bool) -> None:
        super().__init__()
        self.preprocess0: nn.Module = (
            FactorisedReduce(inputs0, channels, affine=True, track=True)
            if previous_reduction
            else ReLUConvNorm(inputs0, channels, 1, 1, affine=True, track=True)
        )
        self.preprocess1 = ReLUConvNorm(inputs1, channels, 1, 1, affine=True, track=True)
        genotype = DARTS_V2["reduction" if reduction else "normal"]
        self.sources = [source for _, source in genotype]
        self.operations = nn.ModuleList(
            darts_operation(name, channels, 2 if reduction and source < 2 else 1, search=False)
            for name, source in genotype
        )

    def forward(self, s0: Tensor, s1: Tensor, drop_path: Tensor) -> Tensor:
        states = [self.preprocess0(s0), self.preprocess1(s1)]
        pairs = list(zip(self.operations, self.sources, strict=True))
        for left, right in zip(pairs[::2], pairs[1::2], strict=True):
            states.append(sum(self.path(f, states[source], drop_path) for f, source in (left, right)))
        return torch.cat(states[2:], dim=1)

    def path(self, operation: nn.Module, x: Tensor, drop_path: Tensor) -> Tensor:
        if isinstance(operation, nn.Identity):
            return x
        keep = 1 - drop_path
        mask = (torch.rand(len(x), 1, 1, 1, device=x.device) < keep) / keep
        x = operation(x)
        return x * mask.to(x.dtype)


class AuxiliaryHead(nn.Module):
    """A classifier on the image of a quarter of the size (8 × 8 for CIFAR)."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.conv0 = nn.Conv2d(channels, 128, 1, bias=False)
        self.norm0 = norm(128, True, True)
        self.conv1 = nn.Conv2d(128, 768, 2, bias=False)
        self.norm1 = norm(768, True, True)
        self.classifier = nn.Linear(768, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.avg_pool2d(F.relu(x), 5, stride=3, count_include_pad=False)
        x = F.relu(self.norm0(self.conv0(x)))
        x = F.relu(self.norm1(self.conv1(x)))
        return self.classifier(x.flatten(1))


class EvaluationNetwork(nn.Module):
    """The network of DARTS_V2 cells. forward: (x, drop_path []) -> (logits [B, K], auxiliary logits [B, K])."""

    def __init__(self, channels: int = 36, cells: int = 20, classes: int = 10) -> None:
        super().__init__()
        self.stem = Stem(3 * channels, track=True)
        plans = list(cell_plan(channels, cells))
        self.cells = nn.ModuleList(DerivedCell(*plan) for plan in plans)
        self.auxiliary_after = 2 * cells // 3
        self.auxiliary = AuxiliaryHead(NODES * plans[self.auxiliary_after].channels, classes)
        self.classifier = nn.Linear(NODES * plans[-1].channels, classes)

    def forward(self, x: Tensor, drop_path: Tensor) -> tuple[Tensor, Tensor]:
        s0 = s1 = self.stem(x)
        for i, cell in enumerate(self.cells):
            s0, s1 = s1, cell(s0, s1, drop_path)
            if i == self.auxiliary_after:
                auxiliary = self.auxiliary(s1)
        return self.classifier(s1.mean((2, 3))), auxiliary


def make_alphas(network: nn.Module, device: str = "cpu", seed: int = 0) -> dict[str, Tensor]:
    """Architecture parameters, 1e-3 times a standard normal. They are no parameters of the network's module."""
    generator = torch.Generator().manual_seed(seed)
    return {
        kind: (1e-3 * torch.randn(shape, generator=generator)).to(device).requires_grad_()
        for kind, shape in network.alpha_shapes.items()
    }


def export_parameters(network: nn.Module) -> dict[str, np.ndarray]:
    """All parameters of a network as NumPy arrays, under the names of its modules.

    Convolutions are [out, in / groups, height, width], the classifier is weight [K, C] and bias [K].
    DARTS, cell c, edge e (numbered as in DartsCell), i counting the two halves of a separable convolution from 0:

        stem.conv.weight, stem.norm.weight, stem.norm.bias, classifier.weight, classifier.bias
        cells.c.preprocess0.conv.weight                        or, after a reduction cell,
        cells.c.preprocess0.first.weight, cells.c.preprocess0.second.weight
        cells.c.preprocess1.conv.weight
        cells.c.edges.e.OP.depthwise{i}.weight, cells.c.edges.e.OP.pointwise{i}.weight  (OP sep_…: i 0, 1; dil_…: i 0)
        cells.c.edges.e.skip_connect.first.weight, ….second.weight                        strided edges

    NAS-Bench-201, where c counts cells and residual blocks together:

        cells.c.edges.e.OP.conv.weight                         OP = nor_conv_…
        cells.c.first.conv.weight, cells.c.first.norm.weight, cells.c.first.norm.bias, the same for second
        cells.c.shortcut.weight
        stem and classifier as above; norm.weight, norm.bias before the classifier
    """
    return {name: value.detach().cpu().numpy().copy() for name, value in network.named_parameters()}


def random_batch(size: int, device: str = "cpu", seed: int = 0, channels_last: bool = True, image: int = 32) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(size, 3, image, image, generator=generator)
    y = torch.randint(10, (size,), generator=generator)
    return x.to(device, memory_format=memory_format(channels_last)), y.to(device)


def memory_format(channels_last: bool) -> torch.memory_format:
    return torch.channels_last if channels_last else torch.contiguous_format


def make_loss(
    network: nn.Module, alphas: dict[str, Tensor], bfloat16: bool = False
) -> Callable[[Batch, Literal["alphas", "weights", "both"]], tuple[Tensor, list[Tensor], list[Tensor]]]:
    """A function (batch, of) -> (loss, gradients to the alphas, gradients to the weights), those not asked for empty.

    Whatever is not asked for is cut from the graph before the forward pass, which then neither keeps nor computes what
    only its gradient would need.
    """
    parameters, leaves = list(network.parameters()), list(alphas.values())
    device = parameters[0].device.type

    def gradients(batch: Batch, of: Literal["alphas", "weights", "both"]) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        x, y = batch
        network.requires_grad_(of != "alphas")
        mixture = {k: F.softmax(a if of != "weights" else a.detach(), dim=-1) for k, a in alphas.items()}
        with torch.autocast(device, torch.bfloat16, enabled=bfloat16):
            logits = network(x, mixture)
        loss = F.cross_entropy(logits.float() if bfloat16 else logits, y)
        wanted = (leaves if of != "weights" else []) + (parameters if of != "alphas" else [])
        found = list(torch.autograd.grad(loss, wanted, materialize_grads=True))
        split = len(leaves) if of != "weights" else 0
        return loss.detach(), found[:split], found[split:]

    return gradients


def make_step(
    order: Literal["first", "second"],
    network: nn.Module,
    alphas: dict[str, Tensor],
    settings: Settings = DARTS_SETTINGS,
    bfloat16: bool = False,
) -> Callable[[Batch, Batch], tuple[Tensor, Tensor]]:
    """The step of DARTS (algorithm 1): (train batch, validation batch) -> (validation loss, training loss).

    First the alphas, by Adam on the validation loss; then the weights, by SGD with momentum on the training loss. The
    second order differentiates the validation loss at the weights one SGD step ahead (with the momentum and decay of
    the real one, not its clipping), the implicit term by the central difference of equation 8.
    """
    if order not in ("first", "second"):
        raise ValueError(f"order must be 'first' or 'second', got {order!r}")
    s = settings
    gradients = make_loss(network, alphas, bfloat16)
    parameters, leaves = list(network.parameters()), list(alphas.values())
    sgd = torch.optim.SGD(parameters, s.learning_rate, s.momentum, 0, s.weight_decay, s.nesterov, foreach=True)
    adam = torch.optim.Adam(leaves, s.alpha_learning_rate, s.alpha_betas, weight_decay=s.alpha_weight_decay)

    # Derivative of the virtual step with respect to the gradient, negated.
    reach = s.learning_rate * (1 + s.momentum if s.nesterov else 1)

    def direction(gradient: Sequence[Tensor]) -> list[Tensor]:
        """What one step of SGD would subtract, divided by the learning rate."""
        decayed = torch._foreach_add(gradient, parameters, alpha=s.weight_decay)
        if not sgd.state:
            buffer = decayed
        else:
            buffer = torch._foreach_mul([sgd.state[p]["momentum_buffer"] for p in parameters], s.momentum)
            torch._foreach_add_(buffer, decayed)
        return torch._foreach_add(decayed, buffer, alpha=s.momentum) if s.nesterov else buffer

    def second_order(train: Batch, valid: Batch) -> tuple[Tensor, list[Tensor]]:
        with torch.no_grad():
            saved = torch._foreach_mul(parameters, 1.0)
        _, _, inner = gradients(train, "weights")
        with torch.no_grad():
            torch._foreach_add_(parameters, direction(inner), alpha=-s.learning_rate)
        loss, outer, vector = gradients(valid, "both")
        epsilon = s.epsilon / torch.linalg.vector_norm(torch.stack(torch._foreach_norm(vector)))
        sides = []
        for sign in (1, -1):
            with torch.no_grad():
                torch._foreach_copy_(parameters, torch._foreach_add(saved, torch._foreach_mul(vector, sign * epsilon)))
            sides.append(gradients(train, "alphas")[1])
        with torch.no_grad():
            torch._foreach_copy_(parameters, saved)
            implicit = torch._foreach_div(torch._foreach_sub(*sides), 2 * epsilon)
            return loss, torch._foreach_sub(outer, torch._foreach_mul(implicit, reach))

    def step(train: Batch, valid: Batch) -> tuple[Tensor, Tensor]:
        if order == "first":
            valid_loss, alpha_gradient, _ = gradients(valid, "alphas")
        else:
            valid_loss, alpha_gradient = second_order(train, valid)
        apply(adam, leaves, alpha_gradient)
        train_loss, _, weight_gradient = gradients(train, "weights")
        apply(sgd, parameters, weight_gradient, s.clip)
        return valid_loss, train_loss

    return step


def apply(optimizer: torch.optim.Optimizer, parameters: list[Tensor], gradient: list[Tensor], clip: float = 0) -> None:
    for p, g in zip(parameters, gradient, strict=True):
        p.grad = g
    if clip:
        nn.utils.clip_grad_norm_(parameters, clip)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def make_evaluation_step(
    network: nn.Module, settings: Settings = DARTS_SETTINGS, auxiliary: float = 0.4, bfloat16: bool = False
) -> Callable[[Batch, Tensor], Tensor]:
    """One training step of the evaluation network: (batch, drop-path probability []) -> loss."""
    s = settings
    parameters = list(network.parameters())
    device = parameters[0].device.type
    sgd = torch.optim.SGD(parameters, s.learning_rate, s.momentum, 0, s.weight_decay, s.nesterov, foreach=True)

    def step(batch: Batch, drop_path: Tensor) -> Tensor:
        x, y = batch
        with torch.autocast(device, torch.bfloat16, enabled=bfloat16):
            logits, auxiliary_logits = network(x, drop_path)
        loss = F.cross_entropy(logits.float(), y) + auxiliary * F.cross_entropy(auxiliary_logits.float(), y)
        apply(sgd, parameters, list(torch.autograd.grad(loss, parameters)), s.clip)
        return loss.detach()

    return step


def compile_network(network: nn.Module, part: Literal["edges", "network"], backend: str = "inductor") -> None:
    """Hands a network to `torch.compile` in place: the mixed operation of an edge alone, or the whole forward pass.

    backend: as of `torch.compile`.
    """
    # One compiled version for each shape and for each set of inputs that need a gradient.
    torch._dynamo.config.recompile_limit = 64
    if part == "network":
        network.compile(dynamic=False, backend=backend)
    else:
        for module in network.modules():
            if isinstance(module, MixedOperation):
                module.compile(dynamic=False, backend=backend)


def measure(step: Callable[[], object], repeats: int, device: str) -> tuple[list[float], list[float]]:
    """Seconds, and seconds of CPU time over all threads, of `repeats` + 1 steps, the first of which warms up."""
    synchronise = torch.cuda.synchronize if device.startswith("cuda") else contextlib.nullcontext
    seconds, cpu_seconds = [], []
    for _ in range(repeats + 1):
        synchronise()
        start, cpu_start = time.perf_counter(), time.process_time()
        step()
        synchronise()
        seconds.append(time.perf_counter() - start)
        cpu_seconds.append(time.process_time() - cpu_start)
    return seconds, cpu_seconds


def build(
    name: str, order: Literal["first", "second"] | None, channels_last: bool, args: argparse.Namespace
) -> Callable[[], object]:
    torch.manual_seed(0)
    networks: dict[str, tuple[Callable[..., nn.Module], int, int]] = {
        "darts": (DartsSupernet, 16, 8),
        "nasbench201": (NasBench201Supernet, 16, 5),
        "evaluation": (EvaluationNetwork, 36, 20),
    }
    make, channels, cells = networks[name]
    network = make(args.channels or channels, args.cells or cells).to(
        args.device, memory_format=memory_format(channels_last)
    )
    if args.compile:
        compile_network(network, args.compile, args.backend)
    train, valid = (random_batch(args.batch, args.device, seed, channels_last) for seed in (0, 1))
    if order is None:
        evaluation_step = make_evaluation_step(network, bfloat16=args.bfloat16)
        drop_path = torch.tensor(0.2, device=args.device)
        return lambda: evaluation_step(train, drop_path)
    settings = NASBENCH201_SETTINGS if name == "nasbench201" else Settings()
    step = make_step(order, network, make_alphas(network, args.device), settings, args.bfloat16)
    return lambda: step(train, valid)


def peer(
    name: Name,
    sizes: Sizes,
    device: str,
    compiled: Literal["edges", "network"] | None = None,
    backend: str = "inductor",
) -> tuple[Callable[[], object], Callable[[], object]]:
    """(the step of that name, which does not wait for the device; a function that does).

    compiled, backend: what is handed to `torch.compile`, and how it compiles; nothing by default.
    Both second-order steps have the one of the paper, by finite differences, as their peer.

    Raises: ValueError where there is no such step here.
    """
    evaluation = name == "evaluation_step"
    network = "evaluation" if evaluation else name.split("_")[0]
    if network not in ("darts", "nasbench201", "evaluation") or name.endswith("one_shot"):
        raise ValueError(f"PyTorch's side has no {name}")
    order: Literal["first", "second"] = "second" if "second_order" in name else "first"
    cells = sizes.nasbench201_cells if network == "nasbench201" else sizes.cells
    settings = argparse.Namespace(
        channels=sizes.evaluation_channels if evaluation else sizes.channels,
        cells=sizes.evaluation_cells if evaluation else cells,
        batch=sizes.batch_of(name),
        device=device,
        compile=compiled,
        backend=backend,
        bfloat16=sizes.dtype == "bfloat16",
    )
    step = build(network, None if evaluation else order, True, settings)
    return step, torch.cuda.synchronize if device.startswith("cuda") else lambda: None


def main() -> None:
    parser = argparse.ArgumentParser(description="Times a search step in PyTorch; prints one JSON object a line.")
    parser.add_argument("--network", choices=("darts", "nasbench201", "evaluation"), nargs="+", default=["darts"])
    parser.add_argument("--order", choices=("first", "second"), nargs="+", default=["first", "second"])
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--channels", type=int, help="default: 16, 36 for the evaluation network")
    parser.add_argument("--cells", type=int, help="default: 8; 5 a stage for NAS-Bench-201; 20 for evaluation")
    parser.add_argument("--repeats", type=int, default=3, help="after one step that is not counted")
    parser.add_argument("--threads", type=int, help="default: PyTorch's choice")
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--memory-format", choices=("channels_last", "contiguous"), nargs="+", default=["channels_last"]
    )
    parser.add_argument("--compile", choices=("edges", "network"), nargs="?", const="edges")
    parser.add_argument("--backend", default="inductor", help="of --compile")
    parser.add_argument("--bfloat16", action="store_true", help="autocast; parameters stay float32")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    for name, layout in itertools.product(args.network, args.memory_format):
        for order in args.order if name != "evaluation" else (None,):
            step = build(name, order, layout == "channels_last", args)
            (first, *rest), (_, *cpu) = measure(step, args.repeats, args.device)
            record = {
                "name": f"{name}_{order}_order" if order else f"{name}_step",
                "memory_format": layout,
                "compile": args.compile,
                "bfloat16": args.bfloat16,
                "batch": args.batch,
                "seconds": statistics.median(rest),
                "min": min(rest),
                "cpu_seconds": statistics.median(cpu),
                "first_step": first,
                "device": torch.cuda.get_device_name() if args.device.startswith("cuda") else args.device,
                "threads": torch.get_num_threads(),
                "load": os.getloadavg()[0],
                "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
                "torch": torch.__version__,
                "python": platform.python_version(),
            }
            if args.device.startswith("cuda"):
                record["peak_device_bytes"] = torch.cuda.max_memory_allocated()
            print(json.dumps(record), flush=True)


if __name__ == "__main__":
    main()
