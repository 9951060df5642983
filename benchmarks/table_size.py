"""How long a large table takes to be read, and how much memory: prints one JSON line.

    python -m benchmarks.table_size --rows 1000000

Writes a CSV of random rows, seven choices, three metrics and a column of words, and loads it in this process.
"""

from __future__ import annotations

import dataclasses
import json
import resource
import tempfile
import time
from pathlib import Path

import numpy as np

from jaxnas import command
from jaxnas.benchmarks import load_table

SIZES = (3, 6, 12, 5, 3, 32, 32)


@dataclasses.dataclass(frozen=True)
class Config:
    rows: int = 1_000_000
    seed: int = 0


def main(config: Config) -> None:
    if not 1 <= config.rows <= np.prod(SIZES) // 2:
        raise ValueError(f"rows must be 1 to {np.prod(SIZES) // 2}, got {config.rows}")
    random = np.random.default_rng(config.seed)
    names = [f"choice{d}" for d in range(len(SIZES))]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "large.csv"
        numbers = random.choice(np.prod(SIZES), config.rows, replace=False)
        with open(path, "w", encoding="utf-8") as file:
            print(*names, "accuracy", "latency", "params", "note", sep=",", file=file)
            for number in numbers:
                options = np.unravel_index(number, SIZES)
                values = random.random(2)
                print(*options, f"{95 * values[0]:.4f},{20 * values[1]:.5f},{number},run-{number}", sep=",", file=file)
        del numbers
        wall, processor = time.perf_counter(), time.process_time()
        table = load_table(path, encoding=names)
        told = {
            "rows": len(table.archs),
            "wall_s": round(time.perf_counter() - wall, 2),
            "processor_s": round(time.process_time() - processor, 2),
            "peak_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 3),
            "file_mb": round(path.stat().st_size / 1e6, 1),
        }
    print(json.dumps(told))


if __name__ == "__main__":
    command.main(main, Config)
