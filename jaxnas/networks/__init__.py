"""Networks to be trained from scratch: those of found architectures and a hand-designed baseline."""

from jaxnas.networks.chain import chain_network
from jaxnas.networks.cnn import tutorial_cnn
from jaxnas.networks.darts import darts_network
from jaxnas.networks.enas_macro import enas_macro_network
from jaxnas.networks.enas_micro import enas_micro_network
from jaxnas.networks.nasbench201 import nasbench201_network
from jaxnas.networks.parts import accumulated

__all__ = [
    "accumulated",
    "chain_network",
    "darts_network",
    "enas_macro_network",
    "enas_micro_network",
    "nasbench201_network",
    "tutorial_cnn",
]
