"""What 8 bits cost: the accuracy of a run's network on its test split, with kernels in float32 and in int8."""

from __future__ import annotations

import os
from pathlib import Path

from jaxnas import data
from jaxnas.data import Dataset
from jaxnas.export import dequantize, quantize
from jaxnas.files import read_json
from jaxnas.fit.training import evaluate
from jaxnas.runfolder import differences
from jaxnas.saved import describe, load, network_of


def data_of_run(
    run: str | os.PathLike[str],
    name: str | None = None,
    data_dir: str | None = None,
    size: tuple[int, int] | None = None,
) -> Dataset:
    """The data set that a run was trained on. name: by default its result's; data_dir, size: as of `load_dataset`.

    Raises: ValueError or OSError where there is no such run, or the data are others than the run's.
    """
    describe(run)  # the error for what is no run
    config, result = (read_json(Path(run) / name) for name in ("config.json", "result.json"))
    dataset = data.load_dataset(name or result["dataset"], data_dir, size=size)
    if differing := differences({"data": config["identity"]["data"]}, {"data": data.fingerprint(dataset)}):
        raise ValueError(
            f"{dataset.name} is not what {run} was trained on ({differing}): give --dataset, --data-dir and --size as "
            "for the run"
        )
    return dataset


def accuracies(run: str | os.PathLike[str], dataset: Dataset) -> tuple[float, float]:
    """The metric of the data set on its test split: by the network as it was trained, and with kernels in int8."""
    network, state = network_of(describe(run)), load(run).params
    before, after = (
        evaluate(network, params, state["stats"], dataset, dataset.test).metric
        for params in (state["params"], dequantize(quantize(state["params"])))
    )
    return before, after
