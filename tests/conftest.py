"""Strict settings for every test: rank promotion raises, reused keys raise, and there are four CPU devices."""

import os
import subprocess
import sys

import jax

jax.config.update("jax_num_cpu_devices", 4)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_debug_key_reuse", True)
# Most tests wait for compilers and not for what they made.
jax.config.update("jax_disable_most_optimizations", True)

# The older emitters of loops take half as long. XLA ends a process that gives it a flag that it has not got.
FASTER = "--xla_cpu_use_fusion_emitters=false"


def pytest_configure(config):
    if "PYTEST_XDIST_WORKER" in os.environ:
        return  # it has the flags of the process that started it
    flags = f"{os.environ.get('XLA_FLAGS', '')} {FASTER}".strip()
    attempt = [sys.executable, "-c", "import jax; jax.devices()"]
    if subprocess.run(attempt, env={**os.environ, "XLA_FLAGS": flags}, capture_output=True).returncode == 0:
        os.environ["XLA_FLAGS"] = flags


# Files of few and long tests first, so that no worker waits at the end for one of them.
LONG = (
    "test_supernets", "test_reference", "test_one_shot_experiment", "test_enas_experiment", "test_networks",
    "test_pruning", "test_digits201", "test_trainer", "test_platform", "test_pruning_experiment", "test_hosts",
)  # fmt: skip


def pytest_collection_modifyitems(items):
    order = {name: place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: order.get(item.path.stem, len(order)))
