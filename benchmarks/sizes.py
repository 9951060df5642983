"""The steps that benchmarks time, by name, and their sizes: known to our side and to PyTorch's, and needs neither."""

from __future__ import annotations

import dataclasses
from typing import Literal

Name = Literal[
    "darts_first_order",
    "darts_second_order_exact",
    "darts_second_order_fd",
    "darts_one_shot",
    "nasbench201_first_order",
    "nasbench201_one_shot",
    "chain_one_shot",
    "enas_macro_one_shot",
    "enas_child",
    "enas_controller",
    "enas_policy",
    "enas_rewards",
    "enas_forward",
    "evaluation_step",
]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sizes:
    batch: int = 64
    """Images of a step; the evaluation network's are --evaluation-batch."""
    channels: int = 16
    """Of the supernets; the evaluation network has those of --evaluation-channels."""
    cells: int = 8
    """Of the DARTS and ENAS micro supernets; the NAS-Bench-201 one has five a stage, halved with --cells below 8."""
    layers: int = 12
    """Of the supernets of the chain and of ENAS macro."""
    evaluation_channels: int = 36
    evaluation_cells: int = 20
    evaluation_batch: int = 96
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of activations."""

    @property
    def nasbench201_cells(self) -> int:
        """Of a stage."""
        return 5 if self.cells >= 8 else max(1, self.cells // 2)

    def batch_of(self, name: Name) -> int:
        return self.evaluation_batch if name == "evaluation_step" else self.batch
