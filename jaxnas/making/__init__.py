"""How the shipped benchmark digits201 is made: a network of every cell is trained, and one small file is written."""

from jaxnas.making.parts import make, read_start, start_fingerprint
from jaxnas.making.trainer import (
    Measured,
    Settings,
    check_making,
    make_trainer,
    representatives,
    run_identity,
    training_batches,
)

__all__ = [
    "Measured",
    "Settings",
    "check_making",
    "make",
    "make_trainer",
    "read_start",
    "representatives",
    "run_identity",
    "start_fingerprint",
    "training_batches",
]
