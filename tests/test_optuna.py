"""Samplers cross to Optuna and back: they find what they found, keep the laws, and go on from a saved history."""

import json
import sys

import jax
import numpy as np
import optuna
import pytest

from experiments import tabular
from jaxnas import command
from jaxnas.base import Choice
from jaxnas.samplers import evolution, from_optuna, halving, nondominated, successive_halving, to_optuna
from jaxnas.samplers.moves import whole
from jaxnas.spaces.product import product
from jaxnas.testing import check_sampler

CHOICES = tuple(Choice(f"choice {n}", ("a", "b", "c", "d")) for n in range(4))
MOVES = product(CHOICES)


def tpe(seed):
    return optuna.samplers.TPESampler(seed=seed, n_startup_trials=5)


def value(arch):
    """Greatest at 3, 2, 1, 0, and every choice counts for itself."""
    return -float(np.abs(np.asarray(arch) - [3, 2, 1, 0]).sum())


def searched(sampler, steps, key=0, values=value):
    """The architectures that were asked for, and the last state."""
    sampler = sampler._replace(ask=jax.jit(sampler.ask), tell=jax.jit(sampler.tell))
    keys = jax.random.split(jax.random.key(key), 2 * steps + 1)
    state, asked = sampler.init(keys[0]), []
    for n in range(steps):
        candidates = sampler.ask(keys[2 * n + 1], state)
        asked.append(np.asarray(candidates.archs[0]))
        told = np.array([np.atleast_1d(values(asked[-1]))], np.float32)
        state = sampler.tell(keys[2 * n + 2], state, candidates, told, np.array([True]))
    return asked, state


def test_a_sampler_of_optuna_keeps_the_laws_of_samplers():
    check_sampler(from_optuna(tpe, CHOICES, 30), CHOICES, steps=6)
    two = from_optuna(
        lambda seed: optuna.samplers.NSGAIISampler(seed=seed, population_size=4), CHOICES, 30, objectives=2
    )
    check_sampler(two, CHOICES, objectives=2, steps=6)
    cma = from_optuna(lambda seed: optuna.samplers.CmaEsSampler(seed=seed), CHOICES, 30, integers=True)
    check_sampler(cma, CHOICES, steps=6)


def test_it_asks_what_optuna_alone_asks():
    asked, state = searched(from_optuna(tpe, CHOICES, 30), 20)
    study = optuna.create_study(direction="maximize", sampler=tpe(int(state.seed)))

    def objective(trial):
        return value([trial.suggest_categorical(choice.name, tuple(range(4))) for choice in CHOICES])

    study.optimize(objective, 20)
    alone = [[trial.params[choice.name] for choice in CHOICES] for trial in study.trials]
    np.testing.assert_array_equal(asked, alone)
    assert value(from_optuna(tpe, CHOICES, 30).best(state)[0]) == study.best_value


def test_tpe_finds_more_than_chance_does():
    sampler = from_optuna(tpe, CHOICES, 40)
    found = [value(sampler.best(searched(sampler, 40, key)[1])[0]) for key in range(3)]
    random = np.random.default_rng(0)
    chance = [max(value(arch) for arch in random.integers(0, 4, (40, 4))) for _ in range(500)]
    assert np.mean(found) > np.mean(chance) + 0.25


def test_a_history_alone_goes_on_as_the_search_did():
    """After a kill there are no studies, only the state; and one that has gone on can be asked about its past."""
    first = from_optuna(tpe, CHOICES, 30)
    asked, state = searched(first, 12)
    _, earlier = searched(first, 8)
    again = from_optuna(tpe, CHOICES, 30)
    key = jax.random.key(5)
    np.testing.assert_array_equal(again.ask(key, earlier).archs[0], asked[8])
    np.testing.assert_array_equal(first.ask(key, earlier).archs[0], asked[8])
    np.testing.assert_array_equal(again.ask(key, state).archs, first.ask(key, state).archs)


def test_another_architecture_than_asked_for_may_be_told():
    sampler = from_optuna(tpe, CHOICES, 30)
    state = sampler.init(jax.random.key(0))
    other = whole(np.array([[3, 2, 1, 0]], np.int32))
    state = sampler.tell(jax.random.key(1), state, other, np.zeros((1, 1), np.float32), np.array([True]))
    assert sampler.ask(jax.random.key(2), state).archs.shape == (1, 4)
    np.testing.assert_array_equal(sampler.best(state)[0], [3, 2, 1, 0])


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_a_sampler_of_the_library_searches_a_study(direction):
    sign = 1 if direction == "maximize" else -1
    sampler = to_optuna(evolution(MOVES, population=8, sample_size=4, batch=2), CHOICES, seed=3)
    study = optuna.create_study(direction=direction, sampler=sampler)

    def objective(trial):
        options = [trial.suggest_categorical(choice.name, choice.options) for choice in CHOICES]
        if trial.number == 2:
            raise optuna.TrialPruned
        assert 0 <= trial.suggest_float("another", 0, 1) <= 1
        return sign * value(["abcd".index(option) for option in options])

    study.optimize(objective, 60)
    assert sign * study.best_value > -2
    best = evolution(MOVES, population=8, sample_size=4).best(sampler.bridge.state)[0]
    assert value(best) == sign * study.best_value  # the sampler was told all of it
    assert int(sampler.bridge.state.born) == 60


def test_several_objectives_and_what_a_study_cannot_have():
    sampler = to_optuna(nondominated(MOVES, 2, population=4), CHOICES, objectives=2)
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)

    def objective(trial):
        options = ["abcd".index(trial.suggest_categorical(choice.name, choice.options)) for choice in CHOICES]
        return sum(options), options[0]

    study.optimize(objective, 12)
    assert int(sampler.bridge.state.asked) == 3
    wrong = optuna.create_study(sampler=to_optuna(nondominated(MOVES, 2, population=4), CHOICES, objectives=2))
    with pytest.raises(ValueError, match="the study has 1 objectives, and the sampler was made for 2"):
        wrong.ask().suggest_categorical(CHOICES[0].name, CHOICES[0].options)
    low = to_optuna(halving(MOVES, (successive_halving(4, (0, 1), 2),)), CHOICES)
    with pytest.raises(ValueError, match="lower fidelities"):
        optuna.create_study(sampler=low).ask().suggest_categorical(CHOICES[0].name, CHOICES[0].options)


def test_optuna_is_a_baseline_on_tables(tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "cache"))
    flags = [
        "--methods",
        "optuna_cma",
        "--seeds",
        "2",
        "--evaluations",
        "12",
        "--front-metrics",
        "valid,-macs",
    ]
    flags += ["--front-methods", "optuna_nsga2", "--workdir", str(tmp_path / "run")]
    command.main(tabular.main, tabular.Config, flags)
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    rows = {row["method"]: row for row in result["methods"]}
    assert {name: row["evaluations"] for name, row in rows.items()} == {"optuna_cma": 12}
    assert all(row["mean"] <= result["optimum"] for row in rows.values())
    shares = {name: found["mean"] for name, found in result["front"]["methods"].items()}
    assert set(shares) == {"optuna_nsga2"}
    assert all(0 < share <= 1 for share in shares.values())


def test_a_package_that_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ValueError, match=r"pip install 'jaxnas\[optuna\]'"):
        from_optuna(tpe, CHOICES, 3)
