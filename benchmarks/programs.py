"""The steps that benchmarks compile and time, with the settings of their papers, and how one is compiled and run."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.sizes import Name, Sizes
from jaxnas.base import Arch, Array, Batch, Key, Skeleton, Supernet
from jaxnas.controllers import adam, lstm_controller, reinforce_policy
from jaxnas.kernels.compiling import top_level_jit
from jaxnas.networks import darts_network
from jaxnas.parallel import DataParallel
from jaxnas.search import (
    adam_l2,
    darts,
    enas,
    exact,
    finite_difference,
    first_order,
    path_metric,
    single_path,
    uniform_paths,
)
from jaxnas.search.enas import rewards_of
from jaxnas.spaces import darts_space
from jaxnas.supernets import (
    chain_supernet,
    darts_supernet,
    enas_macro_supernet,
    enas_micro_supernet,
    nasbench201_supernet,
)
from jaxnas.train.schedules import cosine, sgd
from jaxnas.train.trainer import make_trainer


@dataclasses.dataclass(frozen=True, kw_only=True)
class Forms(Sizes):
    nodes: int | None = None
    """Of a cell of the DARTS and ENAS supernets; by default those of the papers, four and five."""
    form: Literal["scan", "wide", "pairs", "staged"] | None = None
    """How the edges of a cell are run; by default what suits the platform."""
    loop: Literal["yes", "no"] | None = None
    """Whether the passes of a step are iterations of one loop; by default what suits the platform."""


class Program(NamedTuple):
    """init: key -> state. step: (key, state, data) -> (state, info). reads: the batches of the data, by their names;
    none where the data is one batch itself."""

    init: Callable[[Key], Any]
    step: Callable[[Key, Any, Any], tuple[Any, Any]]
    reads: tuple[str, ...]


IMAGE = (32, 32, 3)


def program(name: Name, sizes: Forms, axis_name: str | None = None) -> Program:
    """The step of that name. axis_name: of the devices that a batch is spread over."""
    if name == "evaluation_step":
        return _evaluation(sizes, axis_name)
    form = sizes.form
    loop = None if sizes.loop is None else sizes.loop == "yes"
    optimizer = sgd(cosine(0.025, 0.001, 1000), momentum=0.9, weight_decay=3e-4, clip=5.0)
    skeleton = Skeleton(sizes.channels, sizes.cells, IMAGE, 10, dtype=sizes.dtype)
    if name in ("chain_one_shot", "enas_macro_one_shot"):
        whole = dataclasses.replace(skeleton, cells=sizes.layers)
        supernet = chain_supernet(whole) if name == "chain_one_shot" else enas_macro_supernet(whole)
    elif name.startswith("enas"):
        return _enas(name, enas_micro_supernet(skeleton, sizes.nodes or 5, form=form), optimizer, axis_name)
    elif name.startswith("nasbench201"):
        skeleton = dataclasses.replace(skeleton, cells=sizes.nasbench201_cells)
        supernet = nasbench201_supernet(skeleton, form=form)
    else:
        supernet = darts_supernet(skeleton, sizes.nodes or 4, form=form)
    if name.endswith("one_shot"):
        algorithm = single_path(supernet, uniform_paths(supernet.space), optimizer, axis_name=axis_name)
    else:
        method = {
            "darts_second_order_exact": lambda: exact(optimizer, axis_name, loop=loop),
            "darts_second_order_fd": lambda: finite_difference(optimizer, axis_name=axis_name, loop=loop),
        }.get(name, lambda: first_order(axis_name, loop=loop))()
        algorithm = darts(supernet, optimizer, adam_l2(), method, axis_name=axis_name)
    (phase,) = algorithm.phases
    return Program(algorithm.init, phase.step, phase.reads)


def _enas(name: Name, supernet: Supernet, optimizer: optax.GradientTransformation, axis_name: str | None) -> Program:
    """A step of the child or of the controller, or a part of the latter's: enas_policy samples and learns from rewards
    that cost nothing, enas_rewards are those of ten paths, enas_forward is that of one."""

    def free(params: Any, arch: Arch, batch: Batch) -> Array:
        return jnp.float32(arch[0])

    policy = reinforce_policy(lstm_controller(supernet.space.choices), adam(3.5e-4))
    algorithm = enas(supernet, policy, optimizer, free if name == "enas_policy" else None, axis_name=axis_name)
    if name in ("enas_rewards", "enas_forward"):
        count = 10 if name == "enas_rewards" else 1

        def rewards(key: Key, state: Any, batch: Any) -> tuple[Any, Any]:
            archs = jax.vmap(supernet.space.sample)(jax.random.split(key, count))
            return state, rewards_of(path_metric(supernet, axis_name=axis_name), state.params, archs, batch["valid"])

        return Program(algorithm.init, rewards, ("valid",))
    phase = algorithm.phases[0 if name == "enas_child" else 1]
    return Program(algorithm.init, phase.step, phase.reads)


def _evaluation(sizes: Sizes, axis_name: str | None) -> Program:
    """A training step of the network of the second-order search of DARTS."""
    skeleton = Skeleton(sizes.evaluation_channels, sizes.evaluation_cells, IMAGE, 10, True, sizes.dtype)
    space = darts_space()
    rule = make_trainer(
        darts_network(space.from_genotype("DARTS_V2"), skeleton, space),
        sgd(cosine(0.025, 0.0, 1000), momentum=0.9, weight_decay=3e-4, clip=5.0),
        total_steps=1000,
        axis_name=axis_name,
    )
    return Program(rule.init, rule.step, ())


def random_data(program: Program, size: int) -> Any:
    """What a step reads: a batch for each name, of normal noise in the place of images, or one batch."""
    if not program.reads:
        return random_batch(size, 0)
    return {part: random_batch(size, seed) for seed, part in enumerate(program.reads)}


def random_batch(size: int, seed: int) -> Batch:
    rng = np.random.default_rng(seed)
    image = jnp.asarray(rng.normal(size=(size, *IMAGE)), jnp.float32)
    return Batch(image, jnp.asarray(rng.integers(0, 10, size), jnp.int32))


class Compiled:
    """A compiled step that keeps its state: each call is one step, and waits for it."""

    def __init__(self, over: DataParallel, step: Callable[..., Any], state: Any, data: Any) -> None:
        self.state, self.data, self.count = over.place(state), over.place_data(data), 0
        jitted = top_level_jit(over.step(step), donate_argnums=1)
        start = time.perf_counter()
        lowered = jitted.lower(jax.random.key(0), self.state, self.data)
        self.trace_s = time.perf_counter() - start
        self.compiled = lowered.compile()
        self.compile_s = time.perf_counter() - start
        memory = self.compiled.memory_analysis()
        self.temp_bytes = int(memory.temp_size_in_bytes) if memory else 0
        self.told: Any = None

    def start(self) -> None:
        """One step, without waiting for what it gives."""
        self.state, self.told = self.compiled(jax.random.key(self.count), self.state, self.data)
        self.count += 1

    def wait(self) -> None:
        """Until all steps are done."""
        jax.block_until_ready((self.state, self.told))

    def __call__(self) -> None:
        self.start()
        self.wait()


def build(name: Name, sizes: Forms, over: DataParallel) -> Compiled:
    """The step of that name, compiled for these devices, with a first state and data."""
    made = program(name, sizes, over.axis_name)
    state = jax.jit(made.init)(jax.random.key(0))
    return Compiled(over, made.step, state, random_data(made, sizes.batch_of(name)))
