"""What a GPU or a TPU would run, without having one: search steps compiled ahead of time for an absent device.

    python -m benchmarks.aot --target h100|tpu-v5e-4 [--names darts_first_order nasbench201_first_order ...]

XLA needs the compiler of the device, not the device: `pip install -e '.[aot]'`, best in an environment of its own (half
a gigabyte, without CUDA's libraries). Prints one JSON object a line. `launches` is what the optimized program starts,
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
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from benchmarks.launches import launches
from benchmarks.programs import Forms, program, random_data
from benchmarks.sizes import Name
from jaxnas import command
from jaxnas.kernels.platform import Platform, supposing
from jaxnas.parallel import Way, data_parallel
from jaxnas.supernets.executors import default_form

Target = Literal["h100", "tpu-v5e-4"]
PLATFORMS: dict[Target, Platform] = {"h100": "gpu", "tpu-v5e-4": "tpu"}

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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(Forms):
    target: Target
    names: tuple[Name, ...] = ("darts_first_order", "nasbench201_first_order", "nasbench201_one_shot", "enas_child")
    way: Way = "sharded"
    """How the batch is divided over the chips of a TPU."""
    text: str = ""
    """A folder for the optimized programs, which are long."""


def devices(target: Target) -> list[Any]:
    """The devices of the absent machine. Raises ValueError where their compiler is not installed."""
    package = {"h100": "jax_cuda13_plugin", "tpu-v5e-4": "libtpu"}[target]
    if importlib.util.find_spec(package) is None:
        raise ValueError(f"no compiler for {target}: {package} is not installed; pip install -e '.[aot]'")
    if target == "tpu-v5e-4":
        return list(topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2").devices)
    described = topologies.get_topology_desc(platform="cuda", topology_name="one", target_config=H100, topology="1x1x1")
    return list(described.devices)


def cpu_seconds() -> float:
    """Of this process and the assemblers that it starts."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


def measure(name: Name, config: Config, mesh: Mesh) -> dict[str, Any]:
    over = data_parallel(config.way, list(mesh.devices.flat))
    made = program(name, config, over.axis_name)

    def shapes(tree: Any, spec: PartitionSpec) -> Any:
        sharding = NamedSharding(mesh, spec)
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree)

    data = jax.eval_shape(lambda: random_data(made, config.batch_of(name) * mesh.size))
    key = jax.eval_shape(lambda: jax.random.key(0))
    state = jax.eval_shape(made.init, key)
    arguments = (*shapes((key, state), PartitionSpec()), shapes(data, PartitionSpec(mesh.axis_names)))

    start = time.perf_counter()
    lowered = jax.jit(over.step(made.step), donate_argnums=1).lower(*arguments)
    traced, before = time.perf_counter(), cpu_seconds()
    compiled = lowered.compile()
    done, text = time.perf_counter(), compiled.as_text() or ""
    if config.text:
        os.makedirs(config.text, exist_ok=True)
        with open(os.path.join(config.text, f"{name}-{config.target}-{config.form}-{config.way}.txt"), "w") as file:
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
    mesh = Mesh(np.array(devices(config.target)), ("batch",))
    versions = {"jax": jax.__version__, "jaxlib": importlib.metadata.version("jaxlib")}
    with supposing(PLATFORMS[config.target]):
        config = dataclasses.replace(config, form=config.form or default_form(mesh.size))
        settings = {n: getattr(config, n) for n in ("channels", "cells", "dtype", "form", "loop", "way")}
        for name in config.names:
            record = measure(name, config, mesh) | {"batch": config.batch_of(name)} | settings | {"versions": versions}
            print(json.dumps({k: round(v, 2) if isinstance(v, float) else v for k, v in record.items()}), flush=True)


if __name__ == "__main__":
    command.main(main, Config)
