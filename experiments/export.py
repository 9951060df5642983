"""Write the network of a finished run for other programs: StableHLO, ONNX, safetensors.

    python -m experiments.export --run runs/demo --format onnx
    python -m experiments.export --run runs/demo --format stablehlo onnx safetensors --int8

What is written is read again and must give the outputs of the network, to 1e-4 of the largest. docs/export.md tells how
other programs read it. Needs pip install 'jaxnas[export]'.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated

import tyro

from jaxnas import command, data, export
from jaxnas.fit import rounding

Format = Annotated[str, tyro.conf.arg(metavar="{" + ",".join(export.FORMATS) + "}")]


@dataclasses.dataclass(frozen=True)
class Config:
    """Images come in as they are on disk, uint8 [B, H, W, C] of 0 to 255, in batches of any size; logits come out."""

    run: str
    """The folder of a finished run."""
    format: tuple[Format, ...] = ("onnx",)
    """One format or several."""
    out: str | None = None
    """Where the files are written; by default the folder export/ of the run."""
    int8: bool = False
    """Kernels are kept in 8 bits, with a scale for each channel. The program then prints the accuracy on the test split
    before and after. For this it needs the data of the run."""
    platforms: tuple[str, ...] = export.PLATFORMS
    """The devices for which StableHLO is written."""
    dataset: str | None = None
    """For --int8: the data set, as it was named for the run; by default the name in the result of the run."""
    data_dir: str | None = None
    """Where TFDS data sets are."""
    size: command.Size = None
    """For --int8: the size of images, as it was given for the run."""


def main(config: Config) -> None:
    """Writes the files, and says of each how large it is and how far its outputs are from the network's."""
    if not config.format:
        raise ValueError("no format given: name at least one after --format")
    export.check_formats(config.format)
    dataset = None
    if config.int8:
        dataset = rounding.data_of_run(config.run, config.dataset, config.data_dir, config.size)
    written = export.export_run(config.run, config.format, config.out, int8=config.int8, platforms=config.platforms)
    for path, difference in written.values():
        told = "not run here" if difference is None else f"outputs within {difference:.1e} of the largest"
        print(f"{path}: {path.stat().st_size:,} bytes, {told}")
    if dataset is not None:
        before, after = rounding.accuracies(config.run, dataset)
        total = data.count(dataset.test)
        print(f"test {dataset.objective.name} of {total:,} examples: {before:.4f} in float32, {after:.4f} in int8")


if __name__ == "__main__":
    command.main(main, Config, printed=True)
