"""What differs between versions of JAX in the equations of a jaxpr."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def scan_counts(params: Mapping[str, Any]) -> tuple[int, int]:
    """How many of the inputs of a scan are constants, and how many are carried from step to step.

    params: those of the equation. Up to JAX 0.11 they have the two numbers, from 0.12 on trees of the inputs.
    """
    if "ft_in" in params:
        consts, carry, _ = params["ft_in"].unpack()
        return len(consts), len(carry)
    return params["num_consts"], params["num_carry"]
