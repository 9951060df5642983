"""Checkpoints: what is saved comes back in its types, and what is damaged is not used."""

from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnas.checkpoint import Checkpoints, abstract

OPTIMIZER = optax.chain(optax.clip_by_global_norm(1.0), optax.masked(optax.adam(1e-3), {"w": True, "half": False}))


class State(NamedTuple):
    params: dict[str, jax.Array]
    opt: optax.OptState
    key: jax.Array
    keys: jax.Array
    count: jax.Array
    nothing: None


def init(seed):
    params = {
        "w": jnp.arange(4096.0) * (seed + 1) + jnp.linspace(0, 1, 4096),
        "half": jnp.full((3, 2), 1.5, jnp.bfloat16),
    }
    key, keys = jax.random.split(jax.random.key(seed))
    return State(params, OPTIMIZER.init(params), key, jax.random.split(keys, 5), jnp.int32(seed), None)


def plain(state):
    return jax.tree.map(
        lambda leaf: np.asarray(
            jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf
        ).tolist(),
        state,
    )


def files_of(folder: Path) -> list[Path]:
    return sorted((path for path in folder.rglob("*") if path.is_file()), key=lambda path: -path.stat().st_size)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    for i in range(middle, middle + 4):
        content[i] ^= 0xFF
    path.write_bytes(content)


@pytest.fixture
def saved(tmp_path):
    """A folder with the checkpoints of steps 10 and 20."""
    with Checkpoints(tmp_path) as checkpoints:
        for step in (5, 10, 20):
            checkpoints.save(step, init(step), {"epoch": step / 10})
    return tmp_path


def test_restores_every_leaf_with_its_type_into_the_abstract_state(saved):
    with Checkpoints(saved) as checkpoints:
        state, meta, step = checkpoints.restore(jax.eval_shape(lambda: init(0)))
    assert (step, meta) == (20, {"epoch": 2.0})
    assert plain(state) == plain(init(20))
    assert jax.tree.structure(state) == jax.tree.structure(init(20))
    assert jnp.issubdtype(state.keys.dtype, jax.dtypes.prng_key)
    assert state.keys.shape == (5,)
    assert state.params["half"].dtype == jnp.bfloat16
    assert not any(leaf.committed for leaf in jax.tree.leaves(state))


def test_keeps_the_latest_two_and_the_best(saved):
    with Checkpoints(saved) as checkpoints:
        checkpoints.save_best(10, init(10), {})
        checkpoints.save_best(12, init(12), {})
        assert checkpoints.restore_best(abstract(init(0))).step == 12
    assert sorted(path.name for path in (saved / "latest").iterdir()) == ["10", "20"]
    assert [path.name for path in (saved / "best").iterdir()] == ["12"]


def test_what_a_killed_save_has_left_is_removed(tmp_path):
    unfinished = tmp_path / "latest" / "7.orbax-checkpoint-tmp" / "state"
    unfinished.mkdir(parents=True)
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.restore({}) is None
    assert list((tmp_path / "latest").iterdir()) == []


def test_an_empty_folder_has_nothing_to_restore(tmp_path, capsys):
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.restore(abstract(init(0))) is None
    assert capsys.readouterr().err == ""


def test_a_truncated_file_of_the_latest_falls_back_to_the_one_before(saved, capsys):
    with Checkpoints(saved) as checkpoints:
        latest = saved / "latest" / "20"
        large = files_of(latest)[0]
        large.write_bytes(large.read_bytes()[: large.stat().st_size // 2])
        state, _, step = checkpoints.restore(abstract(init(0)))
        assert step == 10
        assert plain(state) == plain(init(10))
        err = capsys.readouterr().err
        assert err.count("\n") == 1
        assert "latest/20 is damaged" in err
        assert "bytes): going back" in err
        # The step is reached and saved again, and the damaged one does not come back.
        checkpoints.save(20, init(21), {})
        assert plain(checkpoints.restore(abstract(init(0))).state) == plain(init(21))


@pytest.mark.parametrize("which", ["data", "meta"])
def test_flipped_bytes_are_noticed(saved, capsys, which):
    latest = saved / "latest" / "20"
    files = files_of(latest / ("state" if which == "data" else "meta"))
    flip(files[0] if which == "data" else next(path for path in files if path.name == "metadata"))
    with Checkpoints(saved) as checkpoints:
        assert checkpoints.restore(abstract(init(0))).step == 10
    assert "is damaged (the checksum of " in capsys.readouterr().err


def test_without_a_whole_checkpoint_it_says_that_it_starts_anew(saved, capsys):
    for step in (10, 20):
        for path in files_of(saved / "latest" / str(step)):
            path.write_bytes(b"")
    with Checkpoints(saved) as checkpoints:
        assert checkpoints.restore(abstract(init(0))) is None
    assert "starting anew" in capsys.readouterr().err


def test_another_structure_or_shape_is_an_error_that_leaves_the_checkpoints(saved):
    other = init(0)
    with Checkpoints(saved) as checkpoints:
        with pytest.raises(ValueError, match=r"\['w'\]: float32\[4096\] there, float32\[8\] now"):
            checkpoints.restore(abstract(other._replace(params={**other.params, "w": jnp.zeros(8)})))
        with pytest.raises(ValueError, match=r"\['extra'\]: \(absent\) there"):
            checkpoints.restore(abstract(other._replace(params={**other.params, "extra": jnp.zeros(8)})))
        assert checkpoints.restore(abstract(other)).step == 20


def test_restores_to_other_devices(tmp_path):
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    value = jnp.arange(32.0).reshape(8, 4)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"x": jax.device_put(value, rows)}, {})
        one = checkpoints.restore({"x": jax.ShapeDtypeStruct((8, 4), jnp.float32)}).state["x"]
        four = checkpoints.restore({"x": jax.ShapeDtypeStruct((8, 4), jnp.float32, sharding=rows)}).state["x"]
    assert not one.committed
    assert ((one + jax.device_put(value, rows)) == 2 * value).all()
    assert len(four.sharding.device_set) == 4
    assert (np.asarray(one) == np.asarray(value)).all()
    assert (np.asarray(four) == np.asarray(value)).all()
