"""How the shipped benchmark digits201 is made: a network of every cell is trained, and one small file is written."""

from jaxnas.making.parts import make, read_start, start_fingerprint
from jaxnas.making.trainer import (
    Measured,
    Settings,
    check_making,
    identity,
    make_trainer,
    representatives,
    training_batches,
)

__all__ = [
    "Measured",
    "Settings",
    "check_making",
    "identity",
    "make",
    "make_trainer",
    "read_start",
    "representatives",
    "start_fingerprint",
    "training_batches",
]
