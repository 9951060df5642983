"""What is exported computes what the network computes, read by other programs, and takes the space that is said."""

import functools
import json
import re
import shlex
import shutil
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import onnx
import pytest

from experiments import export as program
from experiments import report as report_program
from jaxnas import command, export
from jaxnas.base import Context, Skeleton
from jaxnas.catalog import CATALOG
from jaxnas.choices import searchable, width
from jaxnas.data import load_dataset
from jaxnas.data.dataset import fingerprint
from jaxnas.export import of_run, to_stablehlo
from jaxnas.export.onnx_model import run_onnx, to_onnx
from jaxnas.networks import darts_network, tutorial_cnn
from jaxnas.saved import load, save_network
from jaxnas.spaces import darts_space, nasbench201_space

SHAPE = (9, 8, 3)
IMAGES = np.random.default_rng(0).integers(0, 256, (3, *SHAPE)).astype(np.uint8)
STACKED = Skeleton(4, 12, SHAPE, 5)
"""Of so many cells that some are equal, hence stacked and run by a scan."""


def with_statistics(network):
    """Parameters and statistics as if data were seen; variances so small that images make a difference."""
    params, stats = jax.jit(network.init)(jax.random.key(0))
    leaves, tree = jax.tree.flatten(stats)
    random = np.random.default_rng(1)
    seen = [jnp.asarray(random.uniform(0.03, 0.1, leaf.shape), jnp.float32) for leaf in leaves]
    return params, jax.tree.unflatten(tree, seen)


def function_of(network, params, stats):
    return lambda images: network.apply(params, images.astype(jnp.float32) / 255 - 0.5, Context(bn=stats))[0]


def network_in(name, seed=0):
    if name == "tutorial":
        return tutorial_cnn(SHAPE, 5)
    if name == "stacked":
        space, wanted = darts_space(1), ("sep_conv_3x3", "skip_connect")
        arch = [
            c.options.index(wanted[k // 2 % 2]) if wanted[0] in c.options else 0 for k, c in enumerate(space.choices)
        ]
        return darts_network(jnp.array(arch, jnp.int32), STACKED, space)
    entry = CATALOG[name]
    skeleton = Skeleton(4, entry.small_cells, SHAPE, 5)
    space = entry.space(skeleton)
    return entry.network(space.sample(jax.random.key(seed)), skeleton, space)


@functools.cache
def built(name):
    """(network, params, stats)."""
    network = network_in(name)
    return network, *with_statistics(network)


@pytest.mark.parametrize("name", [*CATALOG, "stacked", "tutorial"])
def test_onnx_gives_the_logits_of_every_network(name):
    function = function_of(*built(name))
    model = to_onnx(function, jax.ShapeDtypeStruct(SHAPE, np.uint8))
    assert {opset.version for opset in model.opset_import} == {17}
    wanted = np.asarray(jax.jit(function)(IMAGES))
    assert wanted.std(axis=0).min() > 1e-4 * np.abs(wanted).max()  # the images have different logits
    for batch in (IMAGES, IMAGES[:1]):
        np.testing.assert_allclose(run_onnx(model, batch), wanted[: len(batch)], atol=1e-4 * np.abs(wanted).max())


def test_onnx_keeps_images_in_one_order_and_each_layer_is_one_node():
    network, params, stats = built("chain")
    model = to_onnx(function_of(network, params, stats), jax.ShapeDtypeStruct(SHAPE, np.uint8))
    kinds = [node.op_type for node in model.graph.node]
    kernels = [leaf for leaf in jax.tree.leaves(params) if leaf.ndim > 1]
    assert kinds.count("Conv") + kinds.count("MatMul") == len(kernels)
    units = kinds.count("Unsqueeze") // 2  # the halves that a unit interleaves
    assert kinds.count("Transpose") <= 1 + 3 * units


def test_what_onnx_has_no_form_for_is_refused_by_name():
    with pytest.raises(ValueError, match="operation 'cumsum' of JAX has no form in ONNX"):
        to_onnx(lambda x: jnp.cumsum(x, axis=1), jax.ShapeDtypeStruct((4,), np.float32))


def test_onnx_of_other_operations_and_inputs():
    def function(inputs):
        x, y, square = inputs["x"], inputs["y"], inputs["square"]
        both = (square + 2 * square.transpose(0, 2, 1))[:, 0]  # of tensors in two orders
        chosen = jnp.where(x > y[:, None], jnp.tanh(x), jnp.exp(-jnp.square(x)))
        scaled = jnp.clip(chosen, -0.5, 0.5) ** 3 / (1 + jnp.abs(y))[:, None]
        return jnp.concatenate([scaled.T.reshape(2, 2, -1)[0].T, jnp.maximum(x.max(1), y)[:, None], both], axis=1)

    random = np.random.default_rng(3)
    shapes = {"x": (5, 4), "y": (5,), "square": (5, 3, 3)}
    inputs = {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    model = to_onnx(function, jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), inputs))
    np.testing.assert_allclose(run_onnx(model, inputs), function(inputs), rtol=1e-5, atol=1e-6)


def test_int8_changes_no_weight_by_more_than_half_a_step_of_its_own_channel():
    _, params, _ = built("stacked")
    rounded = export.dequantize(export.quantize(params))
    stacked = params["cells"][2]["preprocess"][0]["kernel"]
    assert stacked.ndim == 3
    assert stacked.shape[0] > 1  # equal cells
    kinds = jax.tree.leaves(export.quantize(params), is_leaf=lambda x: isinstance(x, export.Int8))
    assert sum(isinstance(kind, export.Int8) for kind in kinds) > 20
    for old, new, lead in ((stacked, rounded["cells"][2]["preprocess"][0]["kernel"], 1),
                           (params["stem"]["kernel"], rounded["stem"]["kernel"], 0)):  # fmt: skip
        step = np.abs(old).max(tuple(range(lead, old.ndim - 1)), keepdims=True) / 127
        assert (np.abs(old - new) <= 0.501 * step).all()
        assert (np.abs(old - new) > 0).any()
    np.testing.assert_array_equal(params["classifier"]["bias"], rounded["classifier"]["bias"])
    np.testing.assert_array_equal(params["stem"]["norm"]["scale"], rounded["stem"]["norm"]["scale"])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run on the digits, as far as export reads it."""
    folder, dataset, space = tmp_path_factory.mktemp("run"), load_dataset("digits"), nasbench201_space()
    skeleton = Skeleton(8, 1, dataset.image_shape, 10)
    genotype = space.to_genotype(space.from_genotype("|nor_conv_3x3~0|+|skip_connect~0|none~1|+|none~0|avg_pool_3x3~1|nor_conv_1x1~2|"))  # fmt: skip  # noqa: E501
    network = CATALOG["nasbench201"].network(space.from_genotype(genotype), skeleton, space)
    save_network(folder, *with_statistics(network), genotype, skeleton, dataset)
    (folder / "config.json").write_text(json.dumps({"identity": {"data": fingerprint(dataset)}, "runtime": {}}))
    (folder / "result.json").write_text(json.dumps({"dataset": "digits"}))
    return folder


def go(*arguments):
    command.main(program.main, program.Config, [str(argument) for argument in arguments])


def test_a_run_is_written_in_every_format_and_its_weights_are_bit_equal(run, tmp_path, capsys):
    go("--run", run, "--format", *export.FORMATS, "--out", tmp_path)
    printed = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in printed] == [
        str(tmp_path / f"network.{name}") for name in ("stablehlo", "onnx", "safetensors")
    ]
    assert all("outputs within" in line for line in printed)
    jax.tree.map(np.testing.assert_array_equal, export.load_weights(tmp_path).params, load(run).params)


def test_the_run_of_a_model_of_ones_own_is_exported_with_its_entry_and_without_it_that_is_told(tmp_path, capsys):
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(10)(nn.relu(nn.Dense(width("hidden", (4, 8)))(x.reshape(x.shape[0], -1))))

    dataset = load_dataset("digits")
    own = searchable(Net(), jnp.zeros((1, 8, 8, 1)), name="mine")
    arch = jnp.zeros(1, jnp.int32)
    network, genotype = own.network(arch), own.space.to_genotype(arch)
    save_network(tmp_path, *network.init(jax.random.key(0)), genotype, Skeleton(1, 1, (8, 8, 1), 10), dataset)
    told = "'mine', which is no space of the library: give the entry"
    with pytest.raises(ValueError, match=told):
        load(tmp_path)
    with pytest.raises(SystemExit):
        go("--run", tmp_path)
    error = capsys.readouterr().err
    assert told in error
    assert "jaxnas.export.export_run(folder, formats, space=own.entry)" in error
    (written,) = export.export_run(tmp_path, ["safetensors"], space=own.entry).values()
    apply, params = export.load_weights(written.path.parent, own.entry)
    images = dataset.test.inputs[:3]
    np.testing.assert_array_equal(apply(params, images), apply(load(tmp_path, space=own.entry).params, images))


def test_int8_is_the_same_rounded_network_in_every_format_and_its_accuracy_is_told(run, tmp_path, capsys):
    go("--run", run, "--format", *export.FORMATS, "--out", tmp_path, "--int8")
    printed = capsys.readouterr().out.splitlines()
    loaded, dataset = load(run), load_dataset("digits")
    apply = jax.jit(loaded.apply)
    images = dataset.test.inputs
    exact = np.asarray(apply(loaded.params, images))
    found = {
        "safetensors": np.asarray(apply(export.load_weights(tmp_path).params, images)),
        "onnx": run_onnx((tmp_path / "network.onnx").read_bytes(), images),
        "stablehlo": np.asarray(export.read_stablehlo(tmp_path / "network.stablehlo")(images)),
    }
    largest = np.abs(exact).max()
    for logits in found.values():
        np.testing.assert_allclose(logits, found["safetensors"], atol=1e-4 * largest)
        assert 1e-4 < np.abs(logits - exact).max() / largest < 0.05
    weights = sum(leaf.size for leaf in jax.tree.leaves(loaded.params["params"]) if leaf.ndim > 1)
    for name in ("network.onnx", "network.stablehlo", "network.safetensors"):
        assert (tmp_path / name).stat().st_size < 4 * weights + 100_000  # the rest is not the kernels'
    kept = [constant for constant in onnx.load(tmp_path / "network.onnx").graph.initializer
            if constant.data_type == onnx.TensorProto.INT8]  # fmt: skip
    assert sum(int(np.prod(constant.dims)) for constant in kept) == weights
    before, after = ((logits.argmax(1) == dataset.test.targets).mean() for logits in (exact, found["safetensors"]))
    assert printed[-1] == f"test accuracy of 360 examples: {before:.4f} in float32, {after:.4f} in int8"


def test_other_packages_read_what_is_in_the_files(run, tmp_path):
    from safetensors import safe_open

    export.export_run(run, ["safetensors", "stablehlo"], tmp_path, platforms=["cuda", "tpu"])
    with safe_open(tmp_path / "network.safetensors", framework="numpy") as file:
        assert file.metadata() == {"format": "jaxnas", "architecture": "network.json"}
        kernel = file.get_tensor("params.stem.kernel")
    np.testing.assert_array_equal(kernel, load(run).params["params"]["stem"]["kernel"])
    described = json.loads((tmp_path / "network.json").read_text())
    assert {"genotype", "skeleton", "class_names", "mean", "std"} <= set(described)
    exported = jax.export.deserialize(bytearray((tmp_path / "network.stablehlo").read_bytes()))
    assert exported.platforms == ("cuda", "tpu")
    assert str(exported.in_avals[0]) == "uint8[batch,8,8,1]"


def test_what_cannot_be_exported_is_one_line_and_exit_code_two(run, tmp_path, capsys, monkeypatch):
    weights = tmp_path / "damaged"
    export.export_run(run, ["safetensors"], weights)
    content = (weights / "network.safetensors").read_bytes()
    for damaged, error in ((content[:100], "is damaged"), (content.replace(b"stem", b"stam"), "in the file it is not")):
        (weights / "network.safetensors").write_bytes(damaged)
        with pytest.raises(ValueError, match=error):
            export.load_weights(weights)
    with pytest.raises(ValueError, match=r"not what jax\.export has written"):
        export.read_stablehlo(weights / "network.json")
    cases = [
        (["--run", tmp_path], "holds no trained network"),
        (["--run", run, "--format", "torch"], "there is no format 'torch'; there are stablehlo, onnx, safetensors"),
        (["--run", run, "--format", "stablehlo", "--platforms", "npu"], "platforms must be some of cpu, cuda"),
        (["--run", run, "--int8", "--dataset", "digits201"], "digits201 is not what"),
    ]
    for arguments, expected in cases:
        with pytest.raises(SystemExit) as stopped:
            go(*arguments)
        error = capsys.readouterr().err
        assert stopped.value.code == 2
        assert expected in error
        assert error.count("\n") == 1
    with monkeypatch.context() as patch:
        patch.setattr(of_run, "to_stablehlo", lambda apply, *rest: to_stablehlo(lambda *a: 1.001 * apply(*a), *rest))
        with pytest.raises(ValueError, match="gives other outputs than the network"):
            export.export_run(run, ["stablehlo"], tmp_path)
    monkeypatch.setattr(of_run, "FORMATS", {**of_run.FORMATS, "onnx": ("no_such_package",)})
    with pytest.raises(ValueError, match=r"onnx needs the package no_such_package: pip install 'jaxnas\[export\]'"):
        export.export_run(run, ["onnx"], tmp_path)


def test_the_commands_and_the_python_of_the_page_run(run, tmp_path, monkeypatch, capsys):
    """Those that export and read; what trains is left to the tests of its programs."""
    text = (Path(__file__).parents[1] / "docs" / "export.md").read_text(encoding="utf-8")
    shutil.copytree(run, tmp_path / "runs" / "demo")
    (tmp_path / "runs" / "demo" / ".lock").touch()
    monkeypatch.chdir(tmp_path)
    programs = {"export": program, "report": report_program}
    commands = [shlex.split(line)[2:] for line in re.findall(r"^python -m experiments\.\w+ .*$", text, re.MULTILINE)]
    mine = [line for line in commands if line[0].partition(".")[2] in programs]
    assert len(mine) == 4
    for name, *arguments in mine:
        module = programs[name.partition(".")[2]]
        command.main(module.main, module.Config, arguments)
    assert (tmp_path / "exported" / "network.onnx").stat().st_size > 0
    assert "stopped: demo" not in capsys.readouterr().out
    names = {}
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(block, names)
    assert names["other"].shape == (3, 10)
    assert len(names["study"].trials) == 20
