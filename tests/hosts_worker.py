"""One process of a DARTS search over several, run by test_hosts: prints what it found as one line of JSON."""

import json
import sys
from pathlib import Path

import jax
import numpy as np

from jaxnas.base import Batch, Skeleton
from jaxnas.parallel import data_parallel, from_first, is_first_process, join_hosts, local
from jaxnas.runfolder import open_run
from jaxnas.search import adam_l2, darts, first_order
from jaxnas.spaces import darts_space
from jaxnas.supernets import darts_supernet
from jaxnas.train.chunk import make_chunk
from jaxnas.train.loop import Leg
from jaxnas.train.loop import run as run_loop
from jaxnas.train.schedules import sgd

OPERATIONS = ("none", "skip_connect", "dil_conv_3x3")


def main(folder: str, way: str, rounds: int) -> None:
    """Searches in `folder`, or goes on there, and prints {"alpha": …, "arch": …, "resumed": …}."""
    ways = data_parallel(way)
    space = darts_space(1, OPERATIONS)
    net = darts_supernet(Skeleton(2, 1, (4, 4, 1), 3), 1, OPERATIONS)
    name = ways.axis_name
    algorithm = darts(space, net, sgd(0.1, momentum=0.9), adam_l2(0.1), first_order(name), axis_name=name)
    random = np.random.RandomState(0)
    labels = np.arange(32, dtype=np.int32) % 3
    data = (random.randn(32, 4, 4, 1).astype(np.float32) + labels[:, None, None, None], labels)

    def batch(key, index, data):
        chosen = jax.random.permutation(jax.random.fold_in(key, index), 32)
        return {k: Batch(data[0][c], data[1][c]) for k, c in (("train", chosen[:16]), ("valid", chosen[16:]))}

    path = Path(folder) / ("run" if is_first_process() else f"other-{jax.process_index()}")
    with open_run(path, {}, {}, share=from_first) as run:
        outcome = run_loop(
            [Leg("search", make_chunk(ways.step(algorithm.phases[0].step), batch), 2)],
            jax.random.key(1), jax.jit(algorithm.init)(jax.random.key(0)), ways.place_data(data), rounds,
            stage=run.stage("search"), place=ways.place, log_every=1,
        )  # fmt: skip
        state = jax.tree.map(local, outcome.state)
        alpha = {kind: np.asarray(value).tolist() for kind, value in state.alpha.items()}
        arch = np.asarray(algorithm.derive(jax.random.key(2), state)).tolist()
        steps = [json.loads(line)["step"] for line in run.metrics_path.read_text().splitlines()]
        print(json.dumps({"alpha": alpha, "arch": arch, "steps": steps}), flush=True)


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", int(sys.argv[2]))
    if sys.argv[3] != "alone":
        join_hosts(sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
    main(sys.argv[1], *sys.argv[6:7], int(sys.argv[7]))
