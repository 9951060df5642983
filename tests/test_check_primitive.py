"""What `jaxnas.testing.check_primitive` accepts, the library's own, and what it names of broken ones."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnas.base import Context, Skeleton
from jaxnas.ops import costs
from jaxnas.ops.chain import BLOCKS
from jaxnas.ops.macro import MACRO_PRIMITIVES
from jaxnas.ops.primitives import PRIMITIVES, Primitive, separable_conv
from jaxnas.testing import check_primitive

SEPARABLE = separable_conv("own_conv", 3, 1, 2)


def test_every_operation_of_the_library_keeps_its_promises():
    for primitive in PRIMITIVES.values():
        check_primitive(primitive)
    for primitive in MACRO_PRIMITIVES.values():
        check_primitive(primitive, strides=(1,))
    for name, block in BLOCKS.items():
        check_primitive(block, strides=(1,) if name == "identity" else (1, 2), widens=True)


def dropping(draws):
    """Half of the entries at random."""

    def apply(params, x, stride, context):
        x = x[:, ::stride, ::stride]
        drop = draws and context.key is not None
        return (x * jax.random.bernoulli(context.key, 0.5, x.shape) if drop else x), ()

    return Primitive("drop", lambda *_: {}, apply, lambda *_: costs.Cost(), random=True)


def test_an_operation_that_draws_is_held_to_that():
    check_primitive(dropping(True), strides=(1,))
    with pytest.raises(AssertionError, match="drop at stride 1: it is random, and draws"):
        check_primitive(dropping(False))
    with pytest.raises(AssertionError, match="drop at stride 1: it draws from a key only where it is random"):
        check_primitive(dropping(True)._replace(random=False))


def exchanged(params, x, stride, context):
    """Each of two batch norms is given the statistics of the other."""
    if not isinstance(context.bn, str):
        context = context._replace(bn=context.bn[::-1])
    return SEPARABLE.apply(params, x, stride, context)


def shifted(params, x, stride, context):
    """Something is added that the scale of a mixture does not reach."""
    y, seen = SEPARABLE.apply(params, x, stride, context)
    return y + 1, seen


def unseen(params, x, stride, context):
    """It ignores the statistics that it is given, but says that it used them."""
    y, seen = SEPARABLE.apply(params, x * (1.0 if isinstance(context.bn, str) else 2.0), stride, context)
    return y, seen


BROKEN = {
    "name is that of no other": SEPARABLE._replace(name="sep_conv_3x3"),
    "without spaces": SEPARABLE._replace(name="own conv"),
    "stride 2: the output is": SEPARABLE._replace(
        apply=lambda params, x, stride, context: SEPARABLE.apply(params, x, 1, context)
    ),
    "stride 1: it tells a .mean, variance. for each of its norms": SEPARABLE._replace(
        norms=lambda channels, stride: (channels,)
    ),
    "stride 1: its norms have the channels told": SEPARABLE._replace(
        norms=lambda channels, stride: (channels, 2 * channels)
    ),
    "stride 1: it tells the statistics that it is given": SEPARABLE._replace(apply=exchanged),
    "stride 1: by the statistics that it told": SEPARABLE._replace(apply=unseen),
    "stride 1: scaled multiplies": SEPARABLE._replace(apply=shifted),
    "stride 1: cost counts the parameters of init: 16 of 120": SEPARABLE._replace(
        cost=lambda channels, stride, size: costs.conv(channels, channels, 1, size)
    ),
}


@pytest.mark.parametrize("promise", BROKEN)
def test_a_broken_promise_is_named(promise):
    with pytest.raises(AssertionError, match=f"^'?{BROKEN[promise].name}'?.*{promise}"):
        check_primitive(BROKEN[promise])


def test_the_operation_of_ones_own_that_the_docs_show_runs():
    """The blocks of docs/search_spaces.md as they stand, a path of five nodes with the operation, and the entry."""
    text = (Path(__file__).parents[1] / "docs" / "search_spaces.md").read_text(encoding="utf-8")
    first, second = [part for part in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "EXCITE" in part]
    names = {}
    exec(first + second, names)
    assert len(names["cell"].choices) == 30
    assert {kind: rows.shape for kind, rows in names["edges"].template().items()} == {"cell": (6, 7)}
    small, x = names["small"], jax.random.normal(jax.random.key(0), (4, 6, 6, 2))
    arch = small.space.sample(jax.random.key(1))
    assert "squeeze_excite" in small.space.notation(arch)
    logits = jax.jit(lambda key: small.apply_path(small.init(key), arch, x, Context())[0])(jax.random.key(2))
    assert logits.shape == (4, 3)
    assert np.isfinite(logits).all()

    entry, skeleton = names["entry"], Skeleton(4, 1, (6, 6, 2), 3)
    space, supernet = entry.space(skeleton), entry.supernet(skeleton)
    assert space.choices == supernet.space.choices
    arch = jnp.full(6, 6, jnp.int32)
    own = jax.eval_shape(lambda key: supernet.extract(supernet.init(key), arch), jax.random.key(0))
    assert own == jax.eval_shape(entry.network(arch, skeleton, space).init, jax.random.key(0))[0]
