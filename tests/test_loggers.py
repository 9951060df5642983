"""Runs go to the tools that people have, without a network, and a resumed run goes on in the same one."""

import pytest

from jaxnas.loggers import numbers
from jaxnas.runfolder import open_run

IDENTITY = {"experiment": "darts", "search": {"epochs": 3}, "seed": 1}


def two_sessions(folder, name):
    """A run that is stopped after a step, and finished when it is taken up."""
    for step in (1, 2):
        with open_run(folder, IDENTITY, {}, loggers=[name]) as run:
            run.stage("search").log("epoch", step, {"loss": 1.0 / step, "phase": "text"})
            if step == 2:
                run.finish({"test_accuracy": 0.75, "baselines": {"a": {"params": 7}}, "notation": "text"})


def test_numbers_have_the_names_of_their_places():
    assert numbers({"a": 1, "b": {"c": 2.5, "d": "text", "e": True}, "f": None}) == {"a": 1, "b/c": 2.5}


def test_a_logger_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ValueError, match="there is no logger 'comet'; there are tensorboard, wandb, mlflow"):
        open_run(tmp_path / "run", {}, {}, loggers=["comet"])
    assert not (tmp_path / "run").exists()


def test_tensorboard(tmp_path):
    two_sessions(tmp_path / "run", "tensorboard")
    written = b"".join(path.read_bytes() for path in (tmp_path / "run" / "tensorboard").iterdir())
    for name in (b"search/loss", b"result/test_accuracy", b"result/baselines/a/params"):
        assert name in written


@pytest.mark.filterwarnings("default")  # of its own packages
def test_mlflow_without_a_server(tmp_path, monkeypatch):
    tracking = pytest.importorskip("mlflow.tracking")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folder = tmp_path / "run"
    two_sessions(folder, "mlflow")
    client = tracking.MlflowClient(tracking_uri=f"sqlite:///{folder / 'mlflow.db'}")
    (run,) = client.search_runs([client.get_experiment_by_name("jaxnas").experiment_id])
    assert run.data.metrics == {"search/loss": 0.5, "result/test_accuracy": 0.75, "result/baselines/a/params": 7}
    assert run.data.params == {"experiment": "darts", "search.epochs": "3", "seed": "1"}
    assert run.info.status == "FINISHED"
    history = client.get_metric_history(run.info.run_id, "search/loss")
    assert sorted((metric.step, metric.value) for metric in history) == [(1, 1.0), (2, 0.5)]


@pytest.mark.filterwarnings("default")
def test_wandb_offline(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    two_sessions(tmp_path / "run", "wandb")
    wandb.teardown()  # its service writes when it likes
    files = list((tmp_path / "run" / "wandb").glob("offline-run-*/run-*.wandb"))
    assert len(files) == 2
    assert len({path.name for path in files}) == 1  # two sessions of one run
    written = b"".join(path.read_bytes() for path in files)
    for name in (b"search/loss", b"result/test_accuracy"):
        assert name in written
