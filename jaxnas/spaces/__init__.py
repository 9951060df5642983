"""Search spaces: finite products of choices, and the cells that they stand for."""

from jaxnas.spaces.darts import (
    CELL_KINDS,
    DARTS_OPERATIONS,
    CellEdges,
    CellShape,
    darts_cells,
    darts_cost_table,
    darts_costs,
    darts_edges,
    darts_space,
    discretise_argmax,
    discretise_paper,
    edge_table,
    graph_operations,
)
from jaxnas.spaces.enas_micro import (
    ENAS_MICRO_OPERATIONS,
    enas_micro_edges,
    enas_micro_loose,
    enas_micro_slots,
    enas_micro_space,
)
from jaxnas.spaces.genotypes import PUBLISHED
from jaxnas.spaces.nasbench201 import (
    NASBENCH201_EDGES,
    NASBENCH201_GRAPH_OPERATIONS,
    NASBENCH201_OPERATIONS,
    nasbench201_cost_table,
    nasbench201_space,
    nasbench201_stages,
)

__all__ = [
    "CELL_KINDS",
    "DARTS_OPERATIONS",
    "ENAS_MICRO_OPERATIONS",
    "NASBENCH201_EDGES",
    "NASBENCH201_GRAPH_OPERATIONS",
    "NASBENCH201_OPERATIONS",
    "PUBLISHED",
    "CellEdges",
    "CellShape",
    "darts_cells",
    "darts_cost_table",
    "darts_costs",
    "darts_edges",
    "darts_space",
    "discretise_argmax",
    "discretise_paper",
    "edge_table",
    "enas_micro_edges",
    "enas_micro_loose",
    "enas_micro_slots",
    "enas_micro_space",
    "graph_operations",
    "nasbench201_cost_table",
    "nasbench201_space",
    "nasbench201_stages",
]
