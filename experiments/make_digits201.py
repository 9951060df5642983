"""Make the benchmark digits201: train a network of every NAS-Bench-201 cell on noisy digits, and write one small file.

    python -m experiments.make_digits201 --workdir runs/digits201

All 15,625 cells compute 4,930 different functions, and cells of one function form a class. One cell of each class is
trained from scratch. One compiled program trains all, because the architecture is data. Checkpoints of a run are the
fidelities. Some hundred classes are trained again with a second seed, to measure the noise. Single runs are timed, for
a model of the training time. Devices share the architectures: a CPU is faster with
XLA_FLAGS=--xla_force_host_platform_device_count=CORES, and gives the same bits. Finished parts are kept, so the same
command goes on where it was stopped. --start takes the results of an earlier file. On two cores the program takes about
an hour and a half.
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
    """Settings that the numbers depend on, then those that they do not depend on, except for --start."""

    together: Count | None = None
    """How many architectures a device trains at once under vmap; by default 1 on a CPU, and a whole part elsewhere."""
    start: str | None = None
    """A file that this program wrote with the same settings. The classes in it are not trained again."""
    collect: bool = False
    """Train nothing more, and write a file of the finished parts."""
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
