"""The search stage of `experiments.darts` for several seeds at once, without a watch."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax

from experiments import seeds
from jaxnas.base import Arch, SearchAlgorithm, SearchSpace
from jaxnas.runfolder import RunFolder
from jaxnas.search import softmax_mixture
from jaxnas.train.loop import Leg
from jaxnas.train.loop import run as run_loop

if TYPE_CHECKING:
    from experiments.darts import Config, SearchParts


def search(
    run: RunFolder, config: Config, space: SearchSpace, algorithm: SearchAlgorithm, layout: seeds.Layout,
    batch: Callable[..., Any], parts: SearchParts, stop: Callable[[], int | None],
) -> tuple[dict[str, Arch], float]:  # fmt: skip
    """({"seed-0": architecture, …}, seconds)."""
    stage, names = run.stage("search"), seeds.names(config)
    if stage.result is not None:
        done = [space.from_genotype(genotype) for genotype in stage.result["genotypes"]]
        return dict(zip(names, done, strict=True)), stage.result["seconds"]
    settings = config.search
    steps = len(parts.train.labels) // settings.batch_size
    (phase,) = algorithm.phases
    init_keys, run_keys, derive_keys, _ = seeds.search_keys(config, 3, 4)
    weights = jax.jit(softmax_mixture)

    def after_round(epoch: int, state: Any) -> tuple[Any, dict[str, Any]]:
        del epoch
        return state, {f"weights_{kind}": w for kind, w in weights(state.alpha).items()}

    outcome = run_loop(
        [Leg("search", layout.chunk(phase.step, batch), steps, 2 * settings.batch_size * config.seeds)],
        layout.keys(run_keys),
        layout.start(algorithm.init, init_keys),
        layout.place_data(parts),
        settings.epochs,
        stage=stage,
        after_round=after_round,
        stop=stop,
        place=layout.place,
    )
    derive = jax.jit(jax.vmap(lambda key, state: algorithm.derive(key, state, None)))
    archs = derive(seeds.stacked(derive_keys), outcome.state)
    genotypes = [space.to_genotype(arch) for arch in archs]
    stage.finish({"genotypes": genotypes, "seconds": outcome.seconds})
    return dict(zip(names, list(archs), strict=True)), outcome.seconds
