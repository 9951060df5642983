"""Search spaces: finite products of choices, and the cells that they stand for."""

from jaxnas.spaces.darts import (
    CELL_KINDS,
    DARTS_OPERATIONS,
    CellEdges,
    CellShape,
    darts_cells,
    darts_cost_table,
    darts_edges,
    darts_space,
    discretise_argmax,
    discretise_paper,
    edge_table,
    graph_operations,
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
    "NASBENCH201_EDGES",
    "NASBENCH201_GRAPH_OPERATIONS",
    "NASBENCH201_OPERATIONS",
    "PUBLISHED",
    "CellEdges",
    "CellShape",
    "darts_cells",
    "darts_cost_table",
    "darts_edges",
    "darts_space",
    "discretise_argmax",
    "discretise_paper",
    "edge_table",
    "graph_operations",
    "nasbench201_cost_table",
    "nasbench201_space",
    "nasbench201_stages",
]
