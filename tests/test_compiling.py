import gc

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnas.kernels.compiling import compiler_options, has_wide_vectors, known_options, top_level_jit, without_locations


def test_options_that_this_xla_does_not_know_are_left_out():
    wanted = {"xla_cpu_no_such_option": 1, "xla_cpu_prefer_vector_width": 256}
    assert known_options(wanted) == {"xla_cpu_prefer_vector_width": 256}
    assert known_options({"xla_cpu_prefer_vector_width": "wide"}) == {}


@pytest.mark.parametrize(
    ("processor", "wide"),
    [("flags\t: fpu avx2 avx512f avx512bw\n", True), ("flags\t: fpu avx2\nmodel: avx512f\n", False), ("", False)],
)
def test_wide_vectors_are_read_off_the_flags_of_a_processor(processor, wide):
    assert has_wide_vectors(processor) == wide


def test_a_program_with_the_options_computes_the_same():
    x = jax.random.normal(jax.random.key(0), (64, 48))

    def function(x):
        return jnp.sum(jnp.square(x @ x.T), 0)

    assert known_options(compiler_options()) == compiler_options()
    np.testing.assert_allclose(top_level_jit(function)(x), jax.jit(function)(x), rtol=1e-4)


def test_the_garbage_collector_rests_while_a_program_is_traced_and_goes_on_where_that_fails():
    running = []

    def function(x, fails=False):
        running.append(gc.isenabled())
        if fails:
            raise ArithmeticError
        return 2 * x

    jitted = top_level_jit(function, static_argnums=1)
    assert float(jitted(jnp.ones(()))) == 2
    with pytest.raises(ArithmeticError):
        jitted(jnp.ones(()), True)
    assert running == [False, False]
    assert gc.isenabled()


def test_locations_are_left_out_of_programs_unless_the_user_has_said_how_many():
    def locations():
        return jax.jit(lambda x: jnp.sin(x)).lower(1.0).as_text(debug_info=True).count("test_compiling.py")

    before = jax.config.jax_traceback_in_locations_limit
    try:
        jax.config.update("jax_traceback_in_locations_limit", 3)
        without_locations()
        assert locations() > 0
        jax.config.update("jax_traceback_in_locations_limit", 10)
        without_locations()
        assert locations() == 0
    finally:
        jax.config.update("jax_traceback_in_locations_limit", before)
