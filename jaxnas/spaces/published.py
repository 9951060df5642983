"""Published cells of DARTS, by the names that their authors' programs give them."""

from __future__ import annotations

import re
from typing import Any


def _published(normal: str, reduce: str) -> dict[str, Any]:
    def cell(text: str) -> list[tuple[str, int]]:
        return [(name, int(source)) for name, source in (edge.split("~") for edge in text.split())]

    concat = [2, 3, 4, 5]
    cells = {"normal": cell(normal), "normal_concat": concat, "reduce": cell(reduce), "reduce_concat": concat}
    return {"space": "darts", **cells}


PUBLISHED: dict[str, dict[str, Any]] = {
    # Liu et al. 2019, https://arxiv.org/abs/1806.09055: first and second order, CIFAR-10.
    "DARTS_V1": _published(
        "sep_conv_3x3~1 sep_conv_3x3~0 skip_connect~0 sep_conv_3x3~1 "
        "skip_connect~0 sep_conv_3x3~1 sep_conv_3x3~0 skip_connect~2",
        "max_pool_3x3~0 max_pool_3x3~1 skip_connect~2 max_pool_3x3~0 "
        "max_pool_3x3~0 skip_connect~2 skip_connect~2 avg_pool_3x3~0",
    ),
    "DARTS_V2": _published(
        "sep_conv_3x3~0 sep_conv_3x3~1 sep_conv_3x3~0 sep_conv_3x3~1 "
        "sep_conv_3x3~1 skip_connect~0 skip_connect~0 dil_conv_3x3~2",
        "max_pool_3x3~0 max_pool_3x3~1 skip_connect~2 max_pool_3x3~1 "
        "max_pool_3x3~0 skip_connect~2 skip_connect~2 max_pool_3x3~1",
    ),
    # Chen et al. 2019, https://arxiv.org/abs/1904.12760: CIFAR-10.
    "PDARTS": _published(
        "skip_connect~0 dil_conv_3x3~1 skip_connect~0 sep_conv_3x3~1 "
        "sep_conv_3x3~1 sep_conv_3x3~3 sep_conv_3x3~0 dil_conv_5x5~4",
        "avg_pool_3x3~0 sep_conv_5x5~1 sep_conv_3x3~0 dil_conv_5x5~2 "
        "max_pool_3x3~0 dil_conv_3x3~1 dil_conv_3x3~1 dil_conv_5x5~3",
    ),
    # Xu et al. 2020, https://arxiv.org/abs/1907.05737: CIFAR-10 and ImageNet.
    "PC_DARTS_cifar": _published(
        "sep_conv_3x3~1 skip_connect~0 sep_conv_3x3~0 dil_conv_3x3~1 "
        "sep_conv_5x5~0 sep_conv_3x3~1 avg_pool_3x3~0 dil_conv_3x3~1",
        "sep_conv_5x5~1 max_pool_3x3~0 sep_conv_5x5~1 sep_conv_5x5~2 "
        "sep_conv_3x3~0 sep_conv_3x3~3 sep_conv_3x3~1 sep_conv_3x3~2",
    ),
    "PC_DARTS_image": _published(
        "skip_connect~1 sep_conv_3x3~0 sep_conv_3x3~0 skip_connect~1 "
        "sep_conv_3x3~1 sep_conv_3x3~3 sep_conv_3x3~1 dil_conv_5x5~4",
        "sep_conv_3x3~0 skip_connect~1 dil_conv_5x5~2 max_pool_3x3~1 "
        "sep_conv_3x3~2 sep_conv_3x3~1 sep_conv_5x5~0 sep_conv_3x3~3",
    ),
    # Chen et al. 2021, https://arxiv.org/abs/2006.10355: CIFAR-10 and ImageNet.
    "DrNAS_cifar10": _published(
        "sep_conv_3x3~0 sep_conv_5x5~1 sep_conv_3x3~1 sep_conv_3x3~2 "
        "skip_connect~0 sep_conv_3x3~1 sep_conv_3x3~2 dil_conv_5x5~3",
        "max_pool_3x3~0 sep_conv_5x5~1 dil_conv_5x5~2 sep_conv_5x5~1 "
        "sep_conv_5x5~1 dil_conv_5x5~3 skip_connect~4 sep_conv_5x5~1",
    ),
    "DrNAS_imagenet": _published(
        "sep_conv_3x3~1 sep_conv_3x3~0 sep_conv_3x3~0 sep_conv_3x3~1 "
        "sep_conv_3x3~0 dil_conv_3x3~3 skip_connect~0 sep_conv_3x3~1",
        "max_pool_3x3~0 sep_conv_3x3~1 sep_conv_3x3~0 skip_connect~2 "
        "sep_conv_3x3~0 sep_conv_3x3~2 sep_conv_3x3~3 sep_conv_3x3~1",
    ),
}
"""DARTS cells as their authors' programs name them."""

_ALSO = {
    "darts": "DARTS_V2",  # as the authors' program has it
    "darts1st": "DARTS_V1",
    "dartsfirstorder": "DARTS_V1",
    "darts2nd": "DARTS_V2",
    "dartssecondorder": "DARTS_V2",
    "pdartscifar": "PDARTS",
    "pdartscifar10": "PDARTS",
    "pcdarts": "PC_DARTS_cifar",
    "pcdartscifar10": "PC_DARTS_cifar",
    "pcdartsimagenet": "PC_DARTS_image",
    "drnas": "DrNAS_cifar10",
    "drnascifar": "DrNAS_cifar10",
    "drnasimage": "DrNAS_imagenet",
}
"""Other names of these cells, without case and signs."""


def spelled(name: str) -> str:
    """A name without case, spaces, hyphens, underscores and other signs, in which spellings differ."""
    return re.sub(r"[\W_]", "", name).casefold()


_BY_SPELLING = {spelled(name): name for name in PUBLISHED} | _ALSO


def published_name(text: str) -> str | None:
    """The name in `PUBLISHED` that a text spells in some way; None where it is no such name."""
    return _BY_SPELLING.get(spelled(text)) if len(text) <= 80 else None
