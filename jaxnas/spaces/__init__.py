"""Search spaces: finite products of choices, and the cells that they stand for."""

from jaxnas.spaces.chain import (
    CHAIN_BLOCKS,
    CHAIN_HEAD,
    chain_cost_table,
    chain_depths,
    chain_extremes,
    chain_space,
)
from jaxnas.spaces.darts import (
    CELL_KINDS,
    DARTS_OPERATIONS,
    darts_cost_table,
    darts_space,
    discretize_argmax,
    discretize_free,
    discretize_paper,
    edge_table,
)
from jaxnas.spaces.enas_macro import (
    ENAS_MACRO_OPERATIONS,
    enas_macro_space,
)
from jaxnas.spaces.enas_micro import (
    ENAS_MICRO_OPERATIONS,
    enas_micro_slots,
    enas_micro_space,
)
from jaxnas.spaces.families import FAMILIES
from jaxnas.spaces.nasbench101 import (
    NASBENCH101_EDGES,
    NASBENCH101_OPERATIONS,
    NASBENCH101_VERTICES,
    nasbench101_space,
    nasbench101_valid,
)
from jaxnas.spaces.nasbench201 import (
    NASBENCH201_EDGES,
    NASBENCH201_OPERATIONS,
    nasbench201_cost_table,
    nasbench201_space,
)
from jaxnas.spaces.own import genotype_space
from jaxnas.spaces.plain import product_space
from jaxnas.spaces.pruned import Pruned, everything, prune
from jaxnas.spaces.published import PUBLISHED
from jaxnas.spaces.reading import read_genotype
from jaxnas.spaces.sizes import NATSBENCH_SIZES, natsbench_size_space

__all__ = [
    "CELL_KINDS",
    "CHAIN_BLOCKS",
    "CHAIN_HEAD",
    "DARTS_OPERATIONS",
    "ENAS_MACRO_OPERATIONS",
    "ENAS_MICRO_OPERATIONS",
    "FAMILIES",
    "NASBENCH101_EDGES",
    "NASBENCH101_OPERATIONS",
    "NASBENCH101_VERTICES",
    "NASBENCH201_EDGES",
    "NASBENCH201_OPERATIONS",
    "NATSBENCH_SIZES",
    "PUBLISHED",
    "Pruned",
    "chain_cost_table",
    "chain_depths",
    "chain_extremes",
    "chain_space",
    "darts_cost_table",
    "darts_space",
    "discretize_argmax",
    "discretize_free",
    "discretize_paper",
    "edge_table",
    "enas_macro_space",
    "enas_micro_slots",
    "enas_micro_space",
    "everything",
    "genotype_space",
    "nasbench101_space",
    "nasbench101_valid",
    "nasbench201_cost_table",
    "nasbench201_space",
    "natsbench_size_space",
    "product_space",
    "prune",
    "read_genotype",
]
