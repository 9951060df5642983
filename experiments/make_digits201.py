"""Make the benchmark digits201: train a network of every NAS-Bench-201 cell on noisy digits, and write one small file.

    python -m experiments.make_digits201 --workdir runs/digits201

All 15,625 cells compute 4,930 functions; one cell of each is trained from scratch, the architecture being data of one
compiled program. Checkpoints of a run are the fidelities. A second seed of some hundred classes tells the noise, and
single runs are timed for a model of the training time. Devices share the architectures: on a CPU it is faster with
XLA_FLAGS=--xla_force_host_platform_device_count=CORES, and gives the same bits. Finished parts are kept: the same
command goes on where it was stopped, and with --start from what an earlier file has. On two cores it takes about an
hour and a half.
"""

from __future__ import annotations

import dataclasses
import functools
import json

from jaxnas import command
from jaxnas.cache import enable_cache
from jaxnas.data.dataset import fingerprint
from jaxnas.data.digits import load_digits
from jaxnas.files import expanded
from jaxnas.making import Settings, check_making, make, read_start, run_identity, start_fingerprint
from jaxnas.ranges import Count
from jaxnas.runfolder import open_run
from jaxnas.train.stop import stop_on_signal


@dataclasses.dataclass(frozen=True)
class Config(Settings):
    """The settings of the numbers, and what they do not depend on; on what was read from `start` they do."""

    together: Count | None = None
    """Architectures of a device computed at once under vmap: by default 1 on a CPU, all of a part elsewhere."""
    start: str | None = None
    """A file of this experiment, of the same settings: what it has is not trained again."""
    collect: bool = False
    """Train nothing more, and write a file of what is there."""
    workdir: str = "runs/digits201"
    cache_dir: str | None = None


def main(config: Config) -> None:
    """Trains what is not there yet, then writes digits201.npz and a summary."""
    check_making(config)
    start = None if config.start is None else expanded(config.start)
    if start is not None and not start.is_file():
        raise OSError(f"there is no file {start}: leave out --start, or give a digits201.npz")
    enable_cache(config.cache_dir)
    earlier = None if start is None else read_start(start, config)
    settings = run_identity(config)
    runtime = {name: value for name, value in dataclasses.asdict(config).items() if name not in settings}
    read = {"data": fingerprint(load_digits()), "start": start_fingerprint(earlier)}
    with (
        open_run(config.workdir, {"experiment": "make_digits201", **settings, **read}, runtime) as run,
        stop_on_signal() as stop,
    ):
        result = make(
            run, config, stop, functools.partial(print, flush=True),
            earlier=earlier, train=not config.collect, together=config.together,
        )  # fmt: skip
        run.finish(result)
        print(json.dumps(result, indent=2))
        print(f"\nwritten: {run.path / 'digits201.npz'}")


if __name__ == "__main__":
    command.main(main, Config)
