"""Zero-cost proxies: what a network that was never trained tells about its architecture from one batch.

A proxy is a function of `Passes`: one architecture, its parameters and a batch, of which it asks the gradients or the
activations that it needs. So proxies that are computed together share them. All architectures of a space are paths of
one supernet, and their scores one compiled program: the architecture is data.

    of = subject(supernet)
    scores = jax.jit(over_architectures({"naswot": naswot, "zico": zico}, of))(supernet.init(key), archs, batch)

A network that is no path of a supernet is scored by itself: `naswot(passes_of(apply, params, batch))`.

Higher is better, but nothing says so of a space on which it was not tried. The proxies of AZ-NAS and VKDNW take
eigenvalues by LAPACK: map architectures or seeds over them by `jax.lax.map`, not by `vmap` (`jaxnas.cholesky`).
"""

from jaxnas.proxies.aggregate import AGGREGATES, COSTS, log_ranks, rank_scores
from jaxnas.proxies.az_nas import expressivity, progressivity, trainability
from jaxnas.proxies.gradients import fisher, grad_norm, grasp, l2_norm, layers, plain, snip, synflow, zico
from jaxnas.proxies.named import PROXIES, checked_names
from jaxnas.proxies.passes import Leaf, Passes, Proxy, Subject, over_architectures, passes_of, subject
from jaxnas.proxies.patterns import epe_nas, jacobian_covariance, naswot, swap
from jaxnas.proxies.vkdnw import vkdnw
from jaxnas.proxies.watching import Watched, watch
from jaxnas.proxies.zen import zen

__all__ = [
    "AGGREGATES",
    "COSTS",
    "PROXIES",
    "Leaf",
    "Passes",
    "Proxy",
    "Subject",
    "Watched",
    "checked_names",
    "epe_nas",
    "expressivity",
    "fisher",
    "grad_norm",
    "grasp",
    "jacobian_covariance",
    "l2_norm",
    "layers",
    "log_ranks",
    "naswot",
    "over_architectures",
    "passes_of",
    "plain",
    "progressivity",
    "rank_scores",
    "snip",
    "subject",
    "swap",
    "synflow",
    "trainability",
    "vkdnw",
    "watch",
    "zen",
    "zico",
]
