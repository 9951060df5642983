"""Neural architecture search as pure functions in JAX."""

from importlib import metadata

from jaxnas.saved import load

__all__ = ["load"]
__version__ = metadata.version("jaxnas")
