"""How the edges of a cell are run: `scan`, one after another; `wide`, those of a mixture from one source side by side,
where their operations allow it; `pairs`, two at a time; `staged`, those that are ready together.

All compute the same function. Executors know operations and where edges lie, and no space.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import jax
import numpy as np

from jaxnas.base import Skeleton
from jaxnas.kernels.platform import platform
from jaxnas.ops.primitives import Primitive
from jaxnas.supernets.executors.edge import sampled_op, strongest_alone
from jaxnas.supernets.executors.layout import (
    Edges,
    Executor,
    Layout,
    edges_init,
    every_slot,
    used_edges,
    with_key_if_read,
)
from jaxnas.supernets.executors.partial import checked_mixture
from jaxnas.supernets.executors.scan import scan_executor
from jaxnas.supernets.executors.staged import staged_executor
from jaxnas.supernets.executors.wide import suits, wide_executor

__all__ = [
    "Edges",
    "Executor",
    "Form",
    "Layout",
    "checked_form",
    "checked_mixture",
    "default_form",
    "edges_init",
    "every_slot",
    "executor",
    "sampled_op",
    "scan_executor",
    "staged_executor",
    "strongest_alone",
    "used_edges",
    "wide_executor",
    "with_key_if_read",
]

Form = Literal["scan", "wide", "pairs", "staged"]


def default_form(devices: int | None = None) -> Form:
    """`staged` on a GPU, `wide` on a CPU, `scan` on a TPU, which does not wait for the start of a kernel, and compiles
    `staged` slowly.

    Several chips of a TPU take `pairs`, because they exchange the sums of two edges at once. devices: how many there
    are; by default all that JAX has.
    """
    if platform() != "tpu":
        return "staged" if platform() == "gpu" else "wide"
    return "pairs" if (jax.device_count() if devices is None else devices) > 1 else "scan"


def checked_form(skeleton: Skeleton, form: Form | None, remat: bool) -> Form:
    """The form to use. Raises ValueError for one that does not exist, and for settings that it cannot have."""
    if form not in (None, *get_args(Form)):
        raise ValueError(f"form must be one of {', '.join(get_args(Form))}, or None, got {form!r}")
    form = form or default_form()
    if remat and form != "staged":
        raise ValueError(f"remat changes nothing in the form {form!r}: leave out remat, or give form='staged'")
    return form


def executor(
    form: Form,
    primitives: Sequence[Primitive],
    keep: np.ndarray | None = None,
    *,
    remat: bool = False,
    sampled: bool = False,
    partial: int = 1,
    absent: int | None = None,
) -> Executor:
    """The executor of that form; other arguments as of `staged_executor`.

    `wide` is `scan` for mixtures that are sampled or partial, and for operations that it does not suit.
    """
    if form == "wide" and suits(primitives) and not sampled and partial == 1:
        return wide_executor(primitives, keep)
    if form != "staged":
        pairs = form == "pairs"
        return scan_executor(primitives, keep, sampled=sampled, partial=partial, absent=absent, pairs=pairs)
    return staged_executor(primitives, keep, remat=remat, sampled=sampled, partial=partial, absent=absent)
