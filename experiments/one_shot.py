"""One-shot search, the whole road: train a supernet along single paths, choose an architecture by its scores within a
budget, then train and test it and its baselines.

    python -m experiments.one_shot                                            digits, a few minutes on 2 CPU cores
    python -m experiments.one_shot --max-macs 400000 --search.by ilp          within a budget, by an integer program
    python -m experiments.one_shot --max-latency-ms 5 --search.by predictor   on this device, guided by a graph network
    python -m experiments.one_shot --search.by proxy                          a proxy ranks 1,000, the first are scored
    python -m experiments.one_shot --search.finalists.count 20                the best by score are trained and compared
    python -m experiments.one_shot --search.prune 4 3                         the weakest options go during the training
    python -m experiments.one_shot --max-macs 300000 --search.supernet runs/one_shot --workdir runs/smaller
    python -m experiments.one_shot --dataset digits201 --table digits201      beside the ground truth
    python -m experiments.one_shot --space darts                              also enas_micro, enas_macro, chain
    python -m experiments.one_shot --space chain --search.sampling sandwich   the largest and the smallest every step
    python -m experiments.one_shot --preset small --data-dir DIR              CIFAR-10, cut down for a CPU
    python -m experiments.one_shot --preset paper --data-dir DIR              for a GPU

A budget limits the networks that are trained in the end. As many random architectures within the budget are scored in
the same way, and the best of them is trained as a baseline: random search with weight sharing (Li & Talwalkar 2019,
https://arxiv.org/abs/1902.07638). A search with several seeds (--seeds 8) leaves this baseline out. Published values of
Kendall's tau between such scores and the benchmark, for supernets over NAS-Bench-201 on CIFAR-10, are about 0.5. The
same command on the same --workdir goes on where it stopped.
"""

from __future__ import annotations

import dataclasses

from jaxnas import command, fit

from .common import Common, defaults, travel


@dataclasses.dataclass(frozen=True)
class Config(Common):
    """The preset and the space set every default that follows."""

    search: fit.OneShot = fit.OneShot()


PRESETS = defaults(Config, "one_shot", "nasbench201")


def main(config: Config) -> None:
    """Runs the whole road, or goes on with it."""
    travel(config, config.search)


if __name__ == "__main__":
    command.main(main, Config, presets=PRESETS)
