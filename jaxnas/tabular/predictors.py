"""The predictors that can be learned from a table, by name; their settings are those of docs/results.md."""

from __future__ import annotations

from collections.abc import Callable

from jaxnas import predictors
from jaxnas.base import Predictor
from jaxnas.predictors import Block, Encoding, Regressor
from jaxnas.predictors.regression import decaying_adamw
from jaxnas.tabular.known import Known


def _paths(of: Known) -> Encoding:
    if of.paths is None:
        raise ValueError(f"architectures of this table have no paths to be counted; {_without_paths(of)}")
    return of.paths


def _without_paths(of: Known) -> str:
    return f"methods for it are {', '.join(predictor_names(of))}"


def _five(network: Regressor, epochs: int, batch: int | None = None, least_steps: int = 1) -> Predictor:
    """Five members."""
    one = predictors.regression(network, decaying_adamw, epochs=epochs, batch=batch, least_steps=least_steps)
    return predictors.ensemble(one, 5)


def _gp(of: Known) -> Predictor:
    """On the paths and their statistics; where there are no paths, on the nodes and what is known beside."""
    if of.paths is not None and of.shape is not None:
        blocks = [Block(of.paths, 0.2, standardize=False), Block(of.shape, 0.8)]
    else:
        blocks = [Block(of.one_hot, 0.5)] + ([] if of.shape is None else [Block(of.shape, 0.5)])
    if of.signals:
        blocks.append(Block(predictors.signals, 0.25))
    return predictors.gaussian_process(blocks, of.example)


def _gp_paths(of: Known) -> Predictor:
    """On path counts alone."""
    return predictors.gaussian_process([Block(_paths(of), standardize=False)], of.example)


def _mlp(of: Known) -> Predictor:
    return _five(predictors.mlp(of.one_hot, of.example), 200)


def _mlp_paths(of: Known) -> Predictor:
    return _five(predictors.mlp(_paths(of), of.example), 200)


def _gnn(of: Known) -> Predictor:
    encodings = [] if of.shape is None else [of.shape]
    if of.signals:
        encodings.append(predictors.signals)
    encode = predictors.concatenated(*encodings) if encodings else None
    network = predictors.gnn(of.vocabulary, of.example, encode=encode, levels=of.levels())
    return _five(network, 40, 128, 100)


def _gnn_alone(of: Known) -> Predictor:
    """Without the statistics of paths: what message passing finds for itself."""
    network = predictors.gnn(of.vocabulary, of.example, levels=of.levels())
    return _five(network, 40, 128, 100)


def _gnn_gp(of: Known) -> Predictor:
    return predictors.average(_gnn(of), _gp(of))


PREDICTORS: dict[str, Callable[[Known], Predictor]] = {
    "gnn_gp": _gnn_gp,
    "gnn": _gnn,
    "gnn_alone": _gnn_alone,
    "gp": _gp,
    "gp_paths": _gp_paths,
    "mlp_paths": _mlp_paths,
    "mlp": _mlp,
}
"""Name -> what makes it from what is known; ensembles are of five."""
NEED_PATHS = ("gp_paths", "mlp_paths")
USUAL = ("gnn_gp", "gnn", "gp", "gp_paths", "mlp_paths", "mlp")


def predictor_names(of: Known) -> list[str]:
    """The names of the usual predictors for a table. Those that count paths are left out where there are no paths.

    >>> from jaxnas.benchmarks import digits201_table
    >>> from jaxnas.tabular import known
    >>> predictor_names(known(digits201_table()))
    ['gnn_gp', 'gnn', 'gp', 'gp_paths', 'mlp_paths', 'mlp']
    """
    return [name for name in USUAL if of.paths is not None or name not in NEED_PATHS]


def make_predictor(name: str, of: Known) -> Predictor:
    """A predictor of `PREDICTORS`. of: what it may know of architectures, as of `known`.

    Raises: ValueError for an unknown name, and for a predictor of paths where architectures have none.

    >>> from jaxnas.benchmarks import digits201_table
    >>> from jaxnas.tabular import known
    >>> predictor = make_predictor("gp", known(digits201_table(), signals=["macs"]))
    >>> type(predictor).__name__
    'Predictor'
    """
    if name not in PREDICTORS:
        raise ValueError(f"there is no method {name!r}; there are {', '.join(PREDICTORS)}")
    return PREDICTORS[name](of)
