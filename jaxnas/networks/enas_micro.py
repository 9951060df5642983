"""The network of cells of ENAS's micro space (Pham et al. 2018, section 2.4, https://arxiv.org/abs/1802.03268).

That of DARTS around cells whose loose ends alone are concatenated; the authors' final network has, beside, one more
1×1 convolution of the second input in every cell.
"""

from __future__ import annotations

from jaxnas.base import Arch, Network, SearchSpace, Skeleton
from jaxnas.networks.darts import cell_network
from jaxnas.ops.primitives import Operations
from jaxnas.spaces.enas_micro import enas_micro_space


def enas_micro_network(
    arch: Arch, skeleton: Skeleton, space: SearchSpace | None = None, *, operations: Operations | None = None
) -> Network:
    """The network of one concrete architecture of `enas_micro_space()`, or of the given space of the same kind.

    operations: those of the space, where some are objects that have no name in the library.

    The paper's has `Skeleton(channels=36, cells=17, …, auxiliary=True)`: 15 normal and two reduction cells.

    Raises: ValueError where the architecture is not one of the space, or an auxiliary head has no room.

    >>> space = enas_micro_space(nodes=1)
    >>> arch = space.from_genotype("0 0 1 4  0 1 1 4")
    >>> skeleton = Skeleton(channels=4, cells=3, image_shape=(8, 8, 3), num_classes=10)
    >>> network = enas_micro_network(arch, skeleton, space)
    >>> network.costs == space.costs(arch, skeleton)
    True
    """
    space = enas_micro_space() if space is None else space
    costs = space.costs(arch, skeleton)
    return cell_network(space.to_genotype(arch), skeleton, costs, operations)
