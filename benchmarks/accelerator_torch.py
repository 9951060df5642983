"""PyTorch's side of `benchmarks.accelerator`: a part, in a process without JAX; eager but where the part compiles."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import torch

from benchmarks import torch_darts
from benchmarks.accelerator import Task, timed, work
from benchmarks.sizes import Sizes


def measure(task: Task) -> Iterator[dict[str, Any]]:
    if not task.dry and not torch.cuda.is_available():
        raise SystemExit("PyTorch sees no GPU")
    torch.backends.cudnn.benchmark = True  # as the authors' programs do, and as XLA does
    device = "cpu" if task.dry else "cuda"
    compiled: Literal["edges"] | None = "edges" if task.part.name == "first_order_compiled" else None
    backend = "aot_eager" if task.dry else "inductor"  # whose code would take minutes to compile on a CPU
    step, wait = torch_darts.peer(task.program, Sizes(**task.sizes), device, compiled, backend)
    record = timed(step, wait, task.dry) | {"torch_compile": compiled, "sizes": task.sizes}
    if not task.dry:
        record["peak_bytes"] = torch.cuda.max_memory_allocated()
        record["reserved_bytes"] = torch.cuda.max_memory_reserved()
        record["tf32"] = {
            "convolutions": torch.backends.cudnn.allow_tf32,
            "products": torch.get_float32_matmul_precision(),
        }
    yield record


if __name__ == "__main__":
    work("torch", measure)
