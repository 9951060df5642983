"""What a GPU or a TPU would run, without having one: search steps compiled ahead of time for an absent device.

    python -m benchmarks.aot --target h100|tpu-v5e-4 [--names darts_first_order nasbench201_first_order ...]

XLA needs the compiler of the device, not the device: `pip install -e '.[aot]'`, best in an environment of its own (half
a gigabyte, without CUDA's libraries). Prints one JSON object a line. `launches` is what the optimised program starts,
each times the trips of the loops it is in, by kind under `kinds`; a library call may start several kernels. Of branches
the largest counts, or each once in a loop of as many turns. `conditionals` are points where a GPU's host waits for a
predicate, `unknown_loops` loops of unknown trips, counted once. `moved_bytes` are the sizes of all operands and
results, an estimate from above of what passes through memory. Bytes are those of one device. `compile_cpu_s` is what
`compile_s` took of all cores.

On the TPU the batch is sharded over a slice of 2x2 chips, `--batch` images on each.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import importlib.util
import json
import os
import resource
import time
from typing import Any, Literal

# Read when the compilers are loaded. Autotuning would need the device, and Triton's matrix products autotuning.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_gpu_enable_triton_gemm=false --xla_gpu_autotune_level=0"
)

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from benchmarks.launches import launches
from experiments import cli
from jaxnas.base import Batch, Key, Phase, SearchAlgorithm, Skeleton
from jaxnas.controllers import adam, lstm_controller, reinforce
from jaxnas.ops.platform import trace_every_platform
from jaxnas.search import adam_l2, darts, enas, exact, finite_difference, first_order, single_path, uniform_paths
from jaxnas.spaces import darts_space, enas_micro_space, nasbench201_space
from jaxnas.supernets import darts_supernet, enas_micro_supernet, nasbench201_supernet
from jaxnas.train.schedules import cosine, sgd

Target = Literal["h100", "tpu-v5e-4"]
Name = Literal[
    "darts_first_order",
    "darts_second_order_exact",
    "darts_second_order_fd",
    "nasbench201_first_order",
    "nasbench201_one_shot",
    "darts_one_shot",
    "enas_child",
    "enas_controller",
]

H100 = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152 shared_memory_per_core: 233472
  threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128 block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535 block_dim_limit_z: 65535 memory_bandwidth: 3352320000000 l2_cache_size: 52428800
  clock_rate_ghz: 1.98 device_memory_size: 84942979072 shared_memory_per_block_optin: 232448
  cuda_compute_capability { major: 9 minor: 0 } registers_per_core_limit: 65536 registers_per_block_limit: 65536
}
platform_name: "CUDA" dnn_version_info { major: 9 minor: 8 } device_description_str: "NVIDIA H100 80GB HBM3"
"""
"""As XLA describes the device it compiles for."""


@dataclasses.dataclass(frozen=True)
class Config:
    target: Target
    names: tuple[Name, ...] = ("darts_first_order", "nasbench201_first_order", "nasbench201_one_shot", "enas_child")
    batch: int = 64
    """Images of each device."""
    channels: int = 16
    cells: int = 8
    """Of the DARTS and ENAS supernets; the NAS-Bench-201 one has five a stage, halved with --cells below 8."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    form: Literal["batch", "scan"] | None = None
    """How the edges of a cell are run; by default what suits the target."""
    loop: Literal["yes", "no"] | None = None
    """Whether the passes of a step are iterations of one loop; by default what suits the target."""
    text: str = ""
    """A folder for the optimised programs, which are long."""


def devices(target: Target) -> list[Any]:
    """The devices of the absent machine. Raises ValueError where their compiler is not installed."""
    package = {"h100": "jax_cuda13_plugin", "tpu-v5e-4": "libtpu"}[target]
    if importlib.util.find_spec(package) is None:
        raise ValueError(f"no compiler for {target}: {package} is not installed; pip install -e '.[aot]'")
    if target == "tpu-v5e-4":
        return list(topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2").devices)
    described = topologies.get_topology_desc(platform="cuda", topology_name="one", target_config=H100, topology="1x1x1")
    return list(described.devices)


def search(name: Name, config: Config) -> tuple[SearchAlgorithm, Phase]:
    """The algorithm with the settings of its paper, and the phase whose step is compiled."""
    dtype = jnp.dtype(config.dtype)
    form, loop = config.form, config.loop == "yes"
    optimiser = sgd(cosine(0.025, 0.001, 1000), momentum=0.9, weight_decay=3e-4, clip=5.0)
    skeleton = Skeleton(config.channels, config.cells, (32, 32, 3), 10)
    if name.startswith("enas"):
        space = enas_micro_space()
        policy = reinforce(lstm_controller(space.choices), adam(3.5e-4))
        algorithm = enas(enas_micro_supernet(skeleton, form=form, dtype=dtype), policy, optimiser)
        return algorithm, algorithm.phases[0 if name == "enas_child" else 1]
    if name.startswith("nasbench201"):
        cells = 5 if config.cells >= 8 else max(1, config.cells // 2)
        space = nasbench201_space()
        supernet = nasbench201_supernet(dataclasses.replace(skeleton, cells=cells), form=form, dtype=dtype)
    else:
        space, supernet = darts_space(), darts_supernet(skeleton, form=form, dtype=dtype)
    if name.endswith("one_shot"):
        algorithm = single_path(supernet, uniform_paths(space), optimiser)
    else:
        method = {
            "darts_second_order_exact": lambda: exact(optimiser, loop=loop),
            "darts_second_order_fd": lambda: finite_difference(optimiser, loop=loop),
        }.get(name, lambda: first_order(loop=loop))()
        algorithm = darts(supernet, optimiser, adam_l2(), method)
    return algorithm, algorithm.phases[0]


def cpu_seconds() -> float:
    """Of this process and the assemblers that it starts."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


def measure(name: Name, config: Config, mesh: Mesh) -> dict[str, Any]:
    algorithm, phase = search(name, config)

    def shapes(tree: Any, spec: PartitionSpec) -> Any:
        sharding = NamedSharding(mesh, spec)
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree)

    size = config.batch * mesh.size
    images = jax.eval_shape(lambda: Batch(jnp.zeros((size, 32, 32, 3)), jnp.zeros(size, jnp.int32)))
    batch = dict.fromkeys(phase.reads, images)
    key = jax.eval_shape(lambda: jax.random.key(0))
    state = jax.eval_shape(algorithm.init, key)
    arguments = (*shapes((key, state), PartitionSpec()), shapes(batch, PartitionSpec(mesh.axis_names)))

    def step(key: Key, state: Any, batch: Any) -> Any:
        return phase.step(key, state, batch)

    start = time.perf_counter()
    lowered = jax.jit(step, donate_argnums=1).lower(*arguments)
    traced, before = time.perf_counter(), cpu_seconds()
    compiled = lowered.compile()
    done, text = time.perf_counter(), compiled.as_text() or ""
    if config.text:
        os.makedirs(config.text, exist_ok=True)
        with open(os.path.join(config.text, f"{name}-{config.target}.txt"), "w") as file:
            file.write(text)
    kinds = launches(text)
    conditionals, unknown, moved = (kinds.pop(kind, 0) for kind in ("conditional", "unknown loop", "bytes"))
    memory: Any = compiled.memory_analysis()
    return {
        "name": name,
        "target": config.target,
        "trace_s": traced - start,
        "compile_s": done - traced,
        "compile_cpu_s": cpu_seconds() - before,
        "launches": kinds.total(),
        "kinds": dict(kinds.most_common()),
        "conditionals": conditionals,
        "unknown_loops": unknown,
        "all_reduces": kinds["all-reduce"] + kinds["all-reduce-start"],
        "moved_bytes": moved,
        "temp_bytes": memory.temp_size_in_bytes,
        "argument_bytes": memory.argument_size_in_bytes,
    }


def main(config: Config) -> None:
    trace_every_platform()
    mesh = Mesh(np.array(devices(config.target)), ("batch",))
    gpu = config.target == "h100"
    config = dataclasses.replace(config, form=config.form or ("batch" if gpu else "scan"))
    config = dataclasses.replace(config, loop=config.loop or ("no" if gpu else "yes"))
    versions = {"jax": jax.__version__, "jaxlib": importlib.metadata.version("jaxlib")}
    settings = {n: getattr(config, n) for n in ("batch", "channels", "cells", "dtype", "form", "loop")}
    for name in config.names:
        record = measure(name, config, mesh) | settings | {"versions": versions}
        print(json.dumps({k: round(v, 2) if isinstance(v, float) else v for k, v in record.items()}), flush=True)


if __name__ == "__main__":
    cli.main(main, Config)
