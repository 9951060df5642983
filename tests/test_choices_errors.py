"""What a model with choices cannot be, each told in one line that names the line of the model."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import own_models
import pytest
from flax import nnx

import jaxnas
from jaxnas import choices
from jaxnas.base import Skeleton

X = jnp.zeros((2, 4))
HERE = r"test_choices_errors\.py:\d+"


def model_of(call, name="Model"):
    """A linen model of a function of itself and its input."""
    return type(name, (nn.Module,), {"__call__": nn.compact(call), "__annotations__": {}})()


def depends_on_data(self, x):
    size = choices.width("size", (2, 4)) if x.sum() > 0 else 3
    return nn.Dense(size)(x)


def other_options(self, x):
    x = nn.Dense(choices.width("size", (2, 4)))(x)
    return nn.Dense(choices.width("size", (2, 8)))(x)


def other_kind(self, x):
    x = nn.Dense(choices.width("size", (2, 4)))(x)
    return choices.depth("size", [nn.Dense(4), nn.Dense(4)], (2, 4 - 2, 0)[::2])(x)


def too_wide(self, x):
    return nn.Dense(2)(choices.narrow(nn.Dense(8)(x), choices.width("size", (4, 16))))


def one_layer_twice(self, x):
    layer = nn.Dense(4)
    return choices.one_of("layer", {"a": layer, "b": layer})(x)


def shared(self, x):
    layer = nn.Dense(4)
    return choices.one_of("layer", {"a": lambda x: layer(x), "b": lambda x: nn.relu(layer(x))})(x)


def other_shapes(self, x):
    return choices.one_of("layer", {"a": nn.Dense(4), "b": nn.Dense(5)})(x)


def without_effect(self, x):
    nn.Dense(choices.width("size", (2, 4)))(x)
    return choices.one_of("layer", {"a": nn.Dense(4), "b": choices.skip})(x)


def turned_around(self, x):
    return nn.Dense(2)(jnp.cumsum(nn.Dense(choices.width("size", (2, 4)))(x), axis=-1))


def by_the_width(self, x):
    size = choices.width("size", (2, 4))
    x = nn.Dense(size)(x)
    return nn.Dense(2)(jnp.exp(x) if size > 2 else x)


def fewer_of_more(self, x):
    heads = choices.width("heads", (1, 2))
    return nn.Dense(8)(x).reshape(x.shape[0], heads, 8 // heads).sum(1).mean(-1)


def in_a_loop(self, x):
    return jax.lax.scan(lambda x, _: (choices.join("way", {"a": x, "b": -x}), None), x, None, 2)[0]


def keeps_state(self, x):
    count = self.variable("counter", "count", lambda: jnp.zeros(()))
    return choices.one_of("layer", {"a": nn.Dense(4), "b": choices.skip})(x) + count.value


def nothing(self, x):
    return nn.Dense(4)(x)


def wide_outputs(self, x):
    return {"fixed": nn.Dense(3)(x), "wide": nn.Dense(choices.width("out", (5, 10)))(x)}


def wide_outputs_by_hand(self, x):
    return wide_outputs(self, choices.value("sign", (1, -1)) * x)


def added(self, x):
    x = nn.Dense(choices.width("w", (4, 8)))(x)
    return nn.Dense(3)(x + nn.Dense(choices.width("v", (4, 8)))(x))


def added_to_a_number(self, x):
    return nn.Dense(3)(nn.Dense(choices.width("w", (4, 8)))(x) + nn.Dense(8)(x))


def added_at_the_widest(self, x):
    return nn.Dense(3)(nn.Dense(choices.width("w", (4, 8)))(x) + nn.Dense(choices.width("v", (8, 16)))(x))


def added_by_hand(self, x):
    return added_to_a_number(self, choices.value("sign", (1, -1)) * x)


def cut_by_a_number(self, x):
    heads, size = choices.width("heads", (1, 2)), choices.width("size", (3, 6))
    return nn.Dense(3)(nn.Dense(heads * size)(x).reshape(x.shape[0], 12 // 6, 6).sum(1))


def later(self, x):
    kind = choices.value("kind", ("a", "b"))
    return nn.Dense(choices.width("size", (2, 4)) if kind == "b" else 4)(x)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (depends_on_data, rf"{HERE}: Python code of the model depends on data"),
        (other_options, rf"{HERE}: the choice 'size' is width of 2, 8, but at {HERE} it is width of 2, 4"),
        (other_kind, rf"{HERE}: the choice 'size' is depth of"),
        (too_wide, rf"{HERE}: a width of 16 is larger than the layer, which has 8 features"),
        (one_layer_twice, rf"{HERE}: two options of 'layer' are one layer"),
        (shared, rf"{HERE}: two options of 'layer' share the parameter \['Dense_0'\]"),
        (other_shapes, rf"{HERE}: the options of 'layer' give outputs of other shapes: a gives float32 \[2, 4\], b"),
        (without_effect, rf"{HERE}: the choice 'size' changes nothing"),
        (turned_around, rf"{HERE}: it runs along the features of a width, in `cumsum`"),
        (by_the_width, rf"{HERE}: with another width the model computes something else"),
        (fewer_of_more, rf"{HERE}: features become more where a width becomes less"),
        (in_a_loop, rf"{HERE}: a choice is asked for inside `scan`"),
        (wide_outputs, rf"{HERE}: the shape of the outputs depends on the width 'out'; give the last layer a fixed"),
        (wide_outputs_by_hand, rf"{HERE}: the shape of the outputs depends on the width 'out'"),
        (
            added,
            rf"{HERE}: arrays of other widths meet \(w=[48], v=[48]\): add got .* \(2, [48]\), \(2, [48]\); give",
        ),
        (
            added_to_a_number,
            rf"{HERE}: arrays of other widths meet \(w=4\): .*; give layers that are added one width name",
        ),
        (added_at_the_widest, rf"{HERE}: arrays of other widths meet \(w=8, v=16\): "),
        (added_by_hand, rf"{HERE}: arrays of other widths meet \(w=4\): "),
        (
            cut_by_a_number,
            rf"{HERE}: arrays of other widths meet \(.*\): cannot reshape .*take other sizes from the shapes",
        ),
        (keeps_state, "the model keeps state in 'counter'"),
        (nothing, "the model has no choice between two options"),
    ],
)
def test_a_model_that_cannot_be_searched_is_told_where(call, message):
    with pytest.raises(ValueError, match=message):
        choices.searchable(model_of(call), X)


def test_an_error_that_no_width_explains_stays_as_it_is():
    def two_inputs(self, x, y):
        return nn.Dense(choices.width("size", (2, 4)))(x + y)

    with pytest.raises(TypeError, match="missing 1 required positional argument"):
        choices.searchable(model_of(two_inputs), X)


def test_options_are_checked_where_they_stand():
    for make, message in (
        (lambda: choices.width("size", (0, 2)), rf"{HERE}: the width 'size' must have positive integers, got \[0, 2\]"),
        (lambda: choices.width("size", ()), "has 0 options"),
        (lambda: choices.width("a b", (1, 2)), "without spaces"),
        (
            lambda: choices.one_of("a", [nn.Dense(4)]),
            rf"{HERE}: the layers of 'a' are a list: give a dictionary of name",
        ),
        (lambda: choices.value("v", (1, 1)), "has an option twice: 1, 1"),
        (lambda: choices.depth("d", [choices.skip], (0, 2)), "has 1 blocks, so it cannot be"),
        (lambda: choices.join("j", {"a": X}, ("a", "b")), "joins b; there are a"),
        (lambda: choices.join("j", {"a": X, "b": X}, how="max"), "how must be sum, mean or concat"),
    ):
        with pytest.raises(ValueError, match=message):
            make()


@pytest.mark.parametrize("example", [(1, 8, 8, 1), {"a": X, "b": 3.0}, jnp.zeros(()), "digits"])
def test_an_example_is_of_arrays_with_an_axis_of_examples(example):
    with pytest.raises(
        ValueError, match=r"whose first axis is that of the examples, got .*give jnp\.zeros\(\(1, 8, 8, 1"
    ):
        choices.searchable(own_models.ConvNet(), example)


class Sized(nn.Module):
    size: int = 4

    @nn.compact
    def __call__(self, x):
        return nn.Dense(2)(nn.Dense(self.size)(x))


def test_a_width_before_the_model_is_traced_is_not_lost_in_silence():
    with pytest.raises(ValueError, match=r"size: the width 'hidden' was asked for before"):
        choices.searchable(Sized(choices.width("hidden", (2, 4))), X)
    own = choices.searchable(lambda: Sized(choices.width("hidden", (2, 4))), X)
    assert own.costs(np.array([[0], [1]]))["params"].tolist() == [4 * 2 + 2 + 2 * 2 + 2, 4 * 4 + 4 + 4 * 2 + 2]
    with pytest.raises(ValueError, match="give searchable a function that makes it, lambda rngs: NnxNet"):
        choices.searchable(own_models.NnxNet(nnx.Rngs(0)), own_models.IMAGES)
    with pytest.raises(ValueError, match="a model is a flax module"):
        choices.searchable(3, X)


def kernel_size(self, x):
    x = nn.Conv(choices.width("size", (2, 4)), (choices.value("kernel", (1, 3)),) * 2)(x)
    return nn.Dense(2)(getattr(nn, choices.value("activation", ("relu", "tanh")))(x).mean((1, 2)))


def test_a_python_value_is_for_networks_alone():
    own = choices.searchable(model_of(kernel_size), own_models.IMAGES)
    costs = own.costs(np.array([[1, 0, 0], [1, 1, 1]]))
    assert costs["macs"].tolist() == [64 * 2 * 4 + 8, 64 * 9 * 2 * 4 + 8]
    with pytest.raises(ValueError, match=rf"{HERE}: the choice 'kernel' is a Python value"):
        own.supernet.init(jax.random.key(0))
    with pytest.raises(ValueError, match="no supernet can hold it"):
        own.entry.supernet(Skeleton(1, 1, (8, 8, 2), 2))
    problem = jaxnas.Problem(own.entry, None, jaxnas.Training(), own.space, None)
    with pytest.raises(ValueError, match=r"jaxnas\.BlackBox"):
        problem.entry.supernet(None)
    with pytest.raises(ValueError, match=rf"{HERE}: the choice 'size' is not reached"):
        choices.searchable(model_of(later), X).network(jnp.array([1]))
