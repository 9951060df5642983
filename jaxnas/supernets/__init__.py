"""Supernets: networks that hold the parameters of every architecture of a space."""

from jaxnas.supernets.chain import chain_supernet
from jaxnas.supernets.darts import darts_narrowing, darts_supernet
from jaxnas.supernets.enas_macro import enas_macro_supernet
from jaxnas.supernets.enas_micro import enas_micro_supernet
from jaxnas.supernets.kept import embedded
from jaxnas.supernets.nasbench201 import nasbench201_supernet

__all__ = [
    "chain_supernet",
    "darts_narrowing",
    "darts_supernet",
    "embedded",
    "enas_macro_supernet",
    "enas_micro_supernet",
    "nasbench201_supernet",
]
