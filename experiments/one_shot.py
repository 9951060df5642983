"""One-shot search, the whole road: a supernet along single paths, architectures chosen by its scores within a budget,
and the chosen one and its baselines trained and tested.

    python -m experiments.one_shot                                            digits, a few minutes on 2 CPU cores
    python -m experiments.one_shot --max-macs 400000 --search.by ilp          within a budget, by an integer program
    python -m experiments.one_shot --max-latency-ms 5 --search.by predictor   on this device, guided by a graph network
    python -m experiments.one_shot --search.by proxy                          the best of 1,000 by a proxy are scored
    python -m experiments.one_shot --search.prune 4 3                         the weakest options go during the training
    python -m experiments.one_shot --max-macs 300000 --search.supernet runs/one_shot --workdir runs/smaller
    python -m experiments.one_shot --dataset digits201 --table digits201      beside the ground truth
    python -m experiments.one_shot --space darts                              also enas_micro, enas_macro, chain
    python -m experiments.one_shot --space chain --search.sampling sandwich   the largest and the smallest every step
    python -m experiments.one_shot --preset small --data-dir DIR              CIFAR-10, cut down for a CPU
    python -m experiments.one_shot --preset paper --data-dir DIR              for a GPU

Budgets are of the networks that are trained in the end. As many random architectures within the budget are scored
alike, and the best of them is trained beside, but not with several seeds (--seeds 8): random search with weight sharing
(Li & Talwalkar 2019, https://arxiv.org/abs/1902.07638). For supernets over NAS-Bench-201 on CIFAR-10, Kendall's tau
with the benchmark of about 0.5 is published. The same command on the same --workdir goes on where it stopped.
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
