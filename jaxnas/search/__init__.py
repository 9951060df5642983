"""Search by weight sharing: one paper a file."""

from jaxnas.search.bilevel import exact, finite_difference, first_order
from jaxnas.search.darts import DartsInfo, DartsState, adam_l2, darts

__all__ = ["DartsInfo", "DartsState", "adam_l2", "darts", "exact", "finite_difference", "first_order"]
