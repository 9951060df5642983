"""Networks to be trained from scratch: those of found architectures, and baselines that are designed by hand."""

from jaxnas.networks.chain import chain_network, mobilenetv2_within
from jaxnas.networks.cnn import tutorial_cnn
from jaxnas.networks.darts import darts_network
from jaxnas.networks.enas_macro import enas_macro_network
from jaxnas.networks.enas_micro import enas_micro_network
from jaxnas.networks.nasbench201 import nasbench201_network
from jaxnas.networks.parts import accumulated
from jaxnas.networks.resnet import resnet, resnet_within

__all__ = [
    "accumulated",
    "chain_network",
    "darts_network",
    "enas_macro_network",
    "enas_micro_network",
    "mobilenetv2_within",
    "nasbench201_network",
    "resnet",
    "resnet_within",
    "tutorial_cnn",
]
