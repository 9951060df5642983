"""Where the metrics of a run go beside its metrics.jsonl: TensorBoard, Weights & Biases, MLflow.

Each is an object with three methods, made by `open_logger`. A resumed run goes on in the same run of the tool, whose id
is kept in the run folder's loggers.json. Both services work without a network: Weights & Biases with WANDB_MODE=offline
in the environment, into the run folder's wandb/; MLflow into the run folder's mlflow.db where MLFLOW_TRACKING_URI
names no server.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from jaxnas.files import read_json, write_json

__all__ = ["LOGGERS", "Logger"]

_LONGEST = 500
"""Of a value of a setting in MLflow, which refuses longer ones."""


class Logger(Protocol):
    """Where the metrics of a run go. Entries of `LOGGERS` make one.

    log: `step` steps of a stage are done, and `values` is what they gave. finish: the run has come to this result,
    numbers by their names. close: no more will come, of a run that is finished or not.


    >>> sorted(LOGGERS)  # `jaxnas.run(…, loggers=["tensorboard"])`
    ['mlflow', 'tensorboard', 'wandb']
    """

    def log(self, stage: str, step: int, values: Mapping[str, float]) -> None: ...
    def finish(self, result: Mapping[str, float]) -> None: ...
    def close(self) -> None: ...


def open_logger(name: str, folder: Path, identity: Mapping[str, Any]) -> Logger:
    """The logger of that name for a run folder. identity: the settings of the run.

    Raises: ValueError for a name that is not in `LOGGERS`, and where its package is not installed.
    """
    check_loggers((name,))
    make, package = LOGGERS[name]
    try:
        return make(folder, identity)
    except ImportError as error:
        raise ValueError(f"{name} needs the package {package}: pip install 'jaxnas[{name}]'") from error
    except Exception as error:  # each tool has errors of its own
        raise ValueError(f"{name} cannot be opened ({error}); docs/export.md tells how it works offline") from error


def check_loggers(names: Sequence[str]) -> None:
    """Raises ValueError for a name that is not in `LOGGERS`."""
    for name in names:
        if name not in LOGGERS:
            raise ValueError(f"there is no logger {name!r}; there are {', '.join(LOGGERS)}")


def numbers(values: Mapping[str, Any], before: str = "") -> dict[str, float]:
    """The numbers of a nested dictionary by their names, such as "baselines/random-1/test_accuracy"."""
    found: dict[str, float] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= numbers(value, f"{before}{name}/")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found[before + name] = value
    return found


def _kept_id(folder: Path, name: str, make: Callable[[], str]) -> str:
    """The id of a tool's run, made when the run folder is first opened."""
    path = folder / "loggers.json"
    ids = read_json(path) if path.exists() else {}
    if name not in ids:
        ids[name] = make()
        write_json(path, ids)
    return str(ids[name])


class _TensorBoard:
    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(str(folder / "tensorboard"))

    def log(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(f"{stage}/{name}", value, step)

    def finish(self, result: Mapping[str, float]) -> None:
        for name, value in result.items():
            self._writer.add_scalar(f"result/{name}", value, 0)

    def close(self) -> None:
        self._writer.close()


class _Wandb:
    """Each stage counts its own steps, from 0: they are an axis of their own, as wandb's step must never fall."""

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        import wandb

        own = _kept_id(folder, "wandb", lambda: secrets.token_hex(4))
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "jaxnas"), name=folder.name, id=own, resume="allow",
            dir=str(folder), config=dict(identity), settings=wandb.Settings(console="off", silent=True),
        )  # fmt: skip
        self._stages: set[str] = set()

    def log(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        if stage not in self._stages:
            self._stages.add(stage)
            self._run.define_metric(f"{stage}/*", step_metric=f"{stage}/step")
        self._run.log({f"{stage}/step": step, **{f"{stage}/{name}": value for name, value in values.items()}})

    def finish(self, result: Mapping[str, float]) -> None:
        self._run.log({f"result/{name}": value for name, value in result.items()})

    def close(self) -> None:
        self._run.finish()


class _MLflow:
    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        from mlflow.entities import Metric
        from mlflow.tracking import MlflowClient

        self._metric = Metric
        uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{folder / 'mlflow.db'}"
        self._client = MlflowClient(tracking_uri=uri)
        self._id = _kept_id(folder, "mlflow", lambda: self._new(folder, identity))
        self._finished = False

    def _new(self, folder: Path, identity: Mapping[str, Any]) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "jaxnas")
        there = self._client.get_experiment_by_name(name)
        experiment = there.experiment_id if there is not None else self._client.create_experiment(name)
        own = str(self._client.create_run(experiment, run_name=folder.name).info.run_id)
        for key, value in _flat(identity).items():
            self._client.log_param(own, key, str(value)[:_LONGEST])
        return own

    def log(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        now = int(1000 * time.time())
        self._client.log_batch(
            self._id, metrics=[self._metric(f"{stage}/{name}", value, now, step) for name, value in values.items()]
        )

    def finish(self, result: Mapping[str, float]) -> None:
        self.log("result", 0, result)
        self._finished = True

    def close(self) -> None:
        self._client.set_terminated(self._id, "FINISHED" if self._finished else "KILLED")


def _flat(tree: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in tree.items():
        found |= _flat(value, f"{before}{key}.") if isinstance(value, Mapping) else {f"{before}{key}": value}
    return found


LOGGERS: dict[str, tuple[Callable[[Path, Mapping[str, Any]], Logger], str]] = {
    "tensorboard": (_TensorBoard, "tensorboardX"),
    "wandb": (_Wandb, "wandb"),
    "mlflow": (_MLflow, "mlflow"),
}
"""Name -> (what makes it, its package)."""
