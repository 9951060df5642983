"""Does ENAS collapse on NAS-Bench-201, and does the batch norm of its rewards decide it? Looked up in the table.

    python -m benchmarks.enas_collapse --table nb201.csv --data-dir DIR

NAS-Bench-201 reports that ENAS finds the cell of identities alone (54.30 % test accuracy on CIFAR-10; Dong & Yang 2020,
table 5). There the rewards of a path are by running averages, which training has collected over all paths. This runs
the search twice, as cut down as the flags say: rewards and final scores by the statistics of the validation batch, and
by such averages (momentum 0.1, of each batch norm over the steps that used it). One JSON object a line: of the found
cell, of the best of as many random candidates scored alike, and of the candidates on the whole, the published accuracy
after 200 epochs and how many of the six edges are identities.
"""

from __future__ import annotations

import dataclasses
import json
import time
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from jaxnas import command, data
from jaxnas.base import Arch, Array, Batch, Context, Skeleton
from jaxnas.benchmarks import Table, nasbench201_table
from jaxnas.controllers import adam, lstm_controller, reinforce_policy
from jaxnas.search import enas
from jaxnas.spaces import NASBENCH201_OPERATIONS, nasbench201_space
from jaxnas.supernets import nasbench201_supernet
from jaxnas.train.schedules import cosine, per_epoch, sgd

Statistics = Literal["batch", "accumulated"]
SCORED = 500
"""Images of a batch of the final scores."""


@dataclasses.dataclass(frozen=True)
class Config:
    table: str
    """A CSV of NAS-Bench-201."""
    data_dir: str
    """Where CIFAR-10 is, as TFDS has it."""
    metric: str = "c10_test@200"
    statistics: tuple[Statistics, ...] = ("batch", "accumulated")
    seeds: int = 2
    images: int = 10_000
    """Of the training split; half are the controller's."""
    epochs: int = 20
    channels: int = 8
    cells: int = 1
    batch: int = 64
    learning_rate: float = 0.05
    controller_steps: int = 15
    """In every epoch."""
    samples: int = 20
    controller_batch: int = 256
    controller_learning_rate: float = 0.01
    candidates: int = 100


def run(config: Config, statistics: Statistics, seed: int, dataset: data.Dataset, table: Table) -> dict[str, Any]:
    space, skeleton = nasbench201_space(), Skeleton(config.channels, config.cells, (32, 32, 3), 10)
    supernet = nasbench201_supernet(skeleton)
    half = config.images // 2
    train, valid = (data.Examples(p.inputs[:half], p.targets[:half]) for p in data.split(dataset, seed, 0.5) if p)
    steps = half // config.batch
    rate = per_epoch(cosine(config.learning_rate, 0.0005, config.epochs), steps)
    controller = lstm_controller(
        space.choices, hidden=32, depth=2, temperature=5.0, tanh_constant=2.5, op_tanh_reduce=1.0
    )
    policy = reinforce_policy(controller, adam(config.controller_learning_rate))

    def accuracy(weights: Any, arch: Arch, batch: Batch) -> Array:
        params, averages = weights
        context = Context(bn="batch" if statistics == "batch" else averages)
        logits, _ = supernet.apply_path(params, arch, batch.inputs, context)
        return jnp.mean(jnp.argmax(logits, -1) == batch.targets)

    optimizer = sgd(rate, momentum=0.9, weight_decay=2.5e-4, clip=5.0, nesterov=True)
    algorithm = enas(supernet, policy, optimizer, accuracy, samples=config.samples)
    child_batch = data.make_batches(half, config.batch, dataset.augmentation)
    controller_batch = data.make_batches(half, config.controller_batch, dataset.augmentation, train=False)
    data_key, run_key, init_key, end_key = jax.random.split(jax.random.key(seed), 4)

    @jax.jit
    def child(state: Any, averages: Any, number: Array) -> Any:
        key = jax.random.fold_in(run_key, number)
        batch = child_batch(data_key, number, train)
        arch = policy.sample(key, state.policy, 1).arch[0]  # that which the step draws from the same key
        new, info = algorithm.phases[0].step(jax.random.clone(key), state, {"train": batch})
        if statistics == "accumulated":
            seen = supernet.apply_path(state.params, arch, batch.inputs, Context())[1].stats

            old, now = jax.tree.leaves(averages), jax.tree.leaves(seen)
            moved = []
            for at in range(0, len(old), 2):  # mean and variance of each batch norm
                # What the path does not use is reported as mean 0 and variance 1.
                used = (now[at] != 0) | (now[at + 1] != 1)
                moved += [jnp.where(used, 0.9 * old[k] + 0.1 * now[k], old[k]) for k in (at, at + 1)]
            averages = jax.tree.unflatten(jax.tree.structure(averages), moved)
        return new, averages, info

    @jax.jit
    def teach(state: Any, averages: Any, number: Array) -> Any:
        batch = controller_batch(jax.random.fold_in(data_key, 1), number, valid)
        key = jax.random.fold_in(jax.random.fold_in(run_key, 1), number)
        # The controller's step reads the weights for its rewards alone, so they may come with the averages.
        held = state._replace(params=(state.params, averages))
        new, info = algorithm.phases[1].step(key, held, {"valid": batch})
        return new._replace(params=state.params), info

    state = jax.jit(algorithm.init)(init_key)
    shapes = jax.eval_shape(
        lambda p: (
            supernet.apply_path(p, space.sample(jax.random.key(0)), jnp.zeros((2, 32, 32, 3)), Context())[1].stats
        ),
        state.params,
    )
    flat, tree = jax.tree.flatten(shapes)
    # Every batch norm has its mean and then its variance.
    averages = jax.tree.unflatten(tree, [jnp.full(leaf.shape, float(i % 2)) for i, leaf in enumerate(flat)])
    start, number, taught, info = time.perf_counter(), 0, 0, None
    for _ in range(config.epochs):
        for _ in range(steps):
            state, averages, _ = child(state, averages, number)
            number += 1
        for _ in range(config.controller_steps):
            state, info = teach(state, averages, taught)
            taught += 1

    score_batch = jax.jit(accuracy)
    whole = [
        data.plain_batch(valid, jnp.arange(i, i + SCORED), dataset.augmentation)
        for i in range(0, half - half % SCORED, SCORED)
    ]

    def score(archs: Array) -> np.ndarray:
        weights = (state.params, averages)
        return np.array([np.mean([float(score_batch(weights, arch, batch)) for batch in whole]) for arch in archs])

    policy_key, random_key = jax.random.split(end_key)
    skip = NASBENCH201_OPERATIONS.index("skip_connect")
    line: dict[str, Any] = {"statistics": statistics, "seed": seed}
    drawn = {
        "policy": policy.sample(policy_key, state.policy, config.candidates).arch,
        "random": jax.vmap(space.sample)(jax.random.split(random_key, config.candidates)),
    }
    for name, archs in drawn.items():
        scores = score(archs)
        accuracies = np.array([float(table.query(arch, config.metric)) for arch in archs])
        best = archs[int(np.argmax(scores))]
        line[name] = {
            "found": space.notation(best),
            "accuracy": round(float(table.query(best, config.metric)), 2),
            "identities": int((best == skip).sum()),
            "score": round(float(scores.max()), 4),
            "mean_score": round(float(scores.mean()), 4),
            "mean_accuracy": round(float(accuracies.mean()), 2),
            "mean_identities": round(float((np.asarray(archs) == skip).sum(1).mean()), 2),
            "rank_correlation": round(_spearman(scores, accuracies), 3),
        }
    line["entropy"] = None if info is None else round(float(info.entropy), 2)
    line["seconds"] = round(time.perf_counter() - start, 1)
    return line


def _spearman(a: np.ndarray, b: np.ndarray) -> float:
    return float(stats.spearmanr(a, b).statistic) if len(set(a)) > 1 and len(set(b)) > 1 else 0.0


def main(config: Config) -> None:
    if config.images < 2 * SCORED:
        raise ValueError(f"images must be at least {2 * SCORED}, half of which are scored on, got {config.images}")
    table = nasbench201_table(config.table)
    table.query(table.archs[0], config.metric)  # raises for what it has not got, before anything is trained
    dataset = data.load_dataset("cifar10", config.data_dir)
    print(json.dumps(dataclasses.asdict(config)), flush=True)
    for seed in range(config.seeds):
        for statistics in config.statistics:
            print(json.dumps(run(config, statistics, seed, dataset, table)), flush=True)


if __name__ == "__main__":
    command.main(main, Config)
