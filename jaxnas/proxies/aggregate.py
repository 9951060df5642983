"""Proxies joined by their ranks."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy import stats

COSTS = ("params", "macs")
"""Of the network, known without making it; multiply-adds are half of what papers call FLOPs, or the same."""
AZ_NAS = ("expressivity", "progressivity", "trainability", "macs")
"""Lee & Ham 2024, equation 8."""
VKDNW = ("vkdnw", "jacov", "expressivity", "trainability", "macs")
"""Tybl & Neumann 2025, equation 9."""
AGGREGATES: dict[str, tuple[str, ...]] = {"az_nas": AZ_NAS, "vkdnw_agg": VKDNW}
"""By name, what each is made from."""


def log_ranks(scores: Mapping[str, np.ndarray]) -> np.ndarray:
    """Σ log(rank / A), float [A], of scores float [A] each: architectures that one proxy ranks last lose most.

    Ranks count from 1, the least; equal scores share the mean of theirs. Neither NaN nor infinity disturbs: NaN ranks
    last. Ranks are among the architectures that are given.

    >>> ranks = np.exp(log_ranks({"naswot": np.array([3.0, 1.0, 2.0, 5.0])})) * 4
    >>> ranks.round().tolist()
    [3.0, 1.0, 2.0, 4.0]
    """
    columns = [np.where(np.isnan(column), -np.inf, column) for column in scores.values()]
    return np.sum([np.log(stats.rankdata(column) / len(column)) for column in columns], axis=0)


def rank_scores(column: np.ndarray) -> np.ndarray:
    """Scores [A] as quantiles of N(0, 1) of their ranks, float [A]: finite, and of one scale for every proxy.

    >>> rank_scores(np.array([10.0, -np.inf, 0.1])).round(2).tolist()
    [0.97, -0.97, 0.0]
    """
    ranks = np.exp(log_ranks({"": column})) * len(column)
    return np.asarray(stats.norm.ppf((ranks - 0.5) / len(column)))
