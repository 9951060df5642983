"""One process of a DARTS search over several, run by test_hosts: tells what it found as one line of JSON, and meets the
end that it is asked to."""

import dataclasses
import itertools
import json
import os
import signal
import sys
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas import command
from jaxnas.base import Aux, Batch, Context, Supernet
from jaxnas.fit.scoring import with_scores
from jaxnas.ops import layers
from jaxnas.parallel import Way, data_parallel, from_first, is_first_process, join_hosts, largest, local
from jaxnas.runfolder import open_run
from jaxnas.search import adam_l2, darts, first_order
from jaxnas.spaces import nasbench201_space
from jaxnas.train.chunk import make_chunk
from jaxnas.train.loop import PhaseSteps
from jaxnas.train.loop import run as run_loop
from jaxnas.train.schedules import sgd

SPACE = nasbench201_space()
FEATURES, CLASSES = 16, 3


@dataclasses.dataclass(frozen=True)
class Config:
    folder: str
    way: Way
    epochs: int
    at: str
    processes: int
    process: int
    end: Literal["signal", "killed"]
    """What comes to the last process: a signal in the middle of scoring, or a kill."""


def linear_supernet():
    """An operation is a linear map of the normalized image: all of a search but the network's time to compile."""

    def init(key):
        shapes = {kind: (*weights.shape, FEATURES, CLASSES) for kind, weights in SPACE.template().items()}
        return {kind: 0.3 * jax.random.normal(key, shape) for kind, shape in shapes.items()}

    def apply(params, weights, x, context):
        x, _ = layers.batch_norm(x, None, Context(axis_name=context.axis_name))
        x = x.reshape(len(x), FEATURES)
        return sum(jnp.einsum("so,sofk,bf->bk", weights[kind], params[kind], x) for kind in params), Aux(())

    def apply_path(params, arch, x, context):
        return apply(params, SPACE.one_hot(arch), x, context)

    return Supernet(SPACE, init, apply, apply_path, lambda arch: True)


def search(folder, ways, epochs, stop=lambda: None):
    """Searches in `folder`, or goes on there; what was found, and scores of some architectures."""
    net, name = linear_supernet(), ways.axis_name
    algorithm = darts(net, sgd(0.1, momentum=0.9), adam_l2(0.1), first_order(name), axis_name=name)
    random = np.random.RandomState(0)
    labels = np.arange(32, dtype=np.int32) % CLASSES
    data = (random.randn(32, 4, 4, 1).astype(np.float32) + labels[:, None, None, None], labels)

    def batch(key, index, data):
        chosen = jax.random.permutation(jax.random.fold_in(key, index), 32)
        return {k: Batch(data[0][c], data[1][c]) for k, c in (("train", chosen[:16]), ("valid", chosen[16:]))}

    with open_run(folder, {}, {}, share=from_first) as run:
        outcome = run_loop(
            [PhaseSteps("search", make_chunk(ways.step(algorithm.phases[0].step), batch), 2)],
            jax.random.key(1), jax.jit(algorithm.init)(jax.random.key(0)), ways.place_data(data), epochs,
            stage=run.stage("search"), place=ways.place, log_every=1,
        )  # fmt: skip
        state = jax.tree.map(local, outcome.state)
        steps = [json.loads(line)["step"] for line in run.metrics_path.read_text().splitlines()]
    scored = []

    @jax.jit
    def accuracy(arch):
        logits, _ = net.apply_path(state.params, arch, data[0], Context())
        return (jnp.argmax(logits, axis=1) == data[1]).mean()

    def score(archs):
        scored.extend(archs.tolist())
        return np.array([accuracy(arch) for arch in archs])

    archs = np.arange(240).reshape(40, 6) % 5
    scores = with_scores({"accuracy": score}, lambda by: by["accuracy"](archs).tolist(), lambda: None)
    return {
        "alpha": {kind: np.asarray(value).tolist() for kind, value in state.alpha.items()},
        "arch": np.asarray(algorithm.derive(jax.random.key(2), state)).tolist(),
        "steps": steps,
        "scores": scores,
        "scored": len(scored),
    }


def run(config):
    join_hosts(config.at, config.processes, config.process)
    folder = Path(config.folder) / ("run" if is_first_process() else f"other-{config.process}")
    print(json.dumps(search(folder, data_parallel(config.way), config.epochs)), flush=True)
    last = config.process == config.processes - 1
    if config.end == "killed":
        if last:
            os.kill(os.getpid(), signal.SIGKILL)
        for _ in itertools.count():
            largest([0])
    slices = itertools.count()
    with_scores(
        {"zero": lambda archs: np.zeros(len(archs))},
        lambda by: by["zero"](np.zeros((1000, 6), np.int32)).tolist(),
        lambda: signal.SIGTERM if last and next(slices) == 2 else None,
    )


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", 1)
    command.main(run, Config, sys.argv[1:])
