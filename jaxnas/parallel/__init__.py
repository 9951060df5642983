"""One step over several devices (`devices`), for several seeds (`seeds`), and one program on several hosts (`hosts`).

These three know nothing of each other. `placement` lays arrays out for them. `threads` runs several
computations at once.
"""

from jaxnas.parallel.devices import DataParallel, Step, Way, data_parallel, on_one_device
from jaxnas.parallel.hosts import (
    arrays_from_first,
    block,
    from_first,
    is_first_process,
    join_hosts,
    joined,
    largest,
    led_by_first,
    lost_process,
    shared_rows,
)
from jaxnas.parallel.placement import is_key, local
from jaxnas.parallel.seeds import Seeds, SeedStep, many_seeds
from jaxnas.parallel.threads import at_once, first_alone

__all__ = [
    "DataParallel",
    "SeedStep",
    "Seeds",
    "Step",
    "Way",
    "arrays_from_first",
    "at_once",
    "block",
    "data_parallel",
    "first_alone",
    "from_first",
    "is_first_process",
    "is_key",
    "join_hosts",
    "joined",
    "largest",
    "led_by_first",
    "local",
    "lost_process",
    "many_seeds",
    "on_one_device",
    "shared_rows",
]
