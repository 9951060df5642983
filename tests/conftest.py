"""Strict settings for every test: rank promotion raises, reused keys raise, and there are four CPU devices."""

import jax

jax.config.update("jax_num_cpu_devices", 4)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_debug_key_reuse", True)
# Most tests wait for compilers and not for what they made. Programs that tests start are compiled as users' are.
jax.config.update("jax_disable_most_optimizations", True)
