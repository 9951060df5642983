"""A data set that is a table, and a supernet over it: a map of each column is searched."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.base import Aux, Supernet
from jaxnas.checks import checked_supernet
from jaxnas.spaces import product_space

MAPS = {"identity": lambda x: x, "square": lambda x: x**2, "sine": lambda x: jnp.sin(3.0 * x)}
SPACE = product_space("table", {"first": MAPS, "second": MAPS})
TRUTH = [1, 2]


def table(count, seed):
    """Two columns each of which counts by another map of it, and a kind that adds a number of its own."""
    random = np.random.default_rng(seed)
    numbers, kind = random.normal(size=(count, 2)), random.integers(0, 3, count)
    targets = numbers[:, 0] ** 2 + 2.0 * np.sin(3.0 * numbers[:, 1]) + np.array([0.5, -1.0, 2.0])[kind]
    return {"numbers": numbers, "kind": kind}, targets + 0.1 * random.normal(size=count)


def table_supernet():
    """A slope for each column and map, and a number for each kind that all paths share."""

    def init(key):
        return {"slopes": 0.5 + 0.1 * jax.random.normal(key, (2, 3)), "kinds": jnp.zeros(3)}

    def apply(params, weights, inputs, context):
        taken = jnp.concatenate([weights["first"], weights["second"]]) * params["slopes"]
        mapped = jnp.stack([each(inputs["numbers"]) for each in MAPS.values()], axis=2)
        return (mapped * taken[None]).sum((1, 2)) + params["kinds"][inputs["kind"]], Aux(())

    def apply_path(params, arch, inputs, context):
        return apply(params, SPACE.one_hot(arch), inputs, context)

    def used(arch):
        return {"slopes": jax.nn.one_hot(arch, 3, dtype=bool), "kinds": jnp.array(True)}

    form = {"numbers": jax.ShapeDtypeStruct((2,), jnp.float32), "kind": jax.ShapeDtypeStruct((), jnp.int32)}
    return checked_supernet(Supernet(SPACE, init, apply, apply_path, used, input_shape=form))


NET = table_supernet()
