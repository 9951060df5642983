"""Tables: queries against plain dictionaries, files and what is wrong with them, the partitions of NAS-Bench-201."""

import bz2
import collections
import itertools
import json
import os
import pickle
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnas import benchmarks, spaces
from jaxnas.base import Choice
from jaxnas.benchmarks.natsbench import nats_records
from jaxnas.benchmarks.table import table_fingerprint

SMALL = (Choice("a", ("0", "1", "2")), Choice("b", ("0", "1")), Choice("c", ("0", "1", "2", "3")))
LARGE = tuple(
    Choice(f"c{d}", tuple(map(str, range(size)))) for d, size in enumerate([7, 1, 50, 2, 9, 31, 300, 4, 11, 3])
)
CELLS = np.array(list(itertools.product(range(5), repeat=6)), np.int32)
STRING = "|nor_conv_3x3~0|+|nor_conv_3x3~0|avg_pool_3x3~1|+|skip_connect~0|none~1|skip_connect~2|"


def draw(choices, count, seed=0):
    """Different architectures in random order."""
    rng = np.random.default_rng(seed)
    sizes = [len(choice.options) for choice in choices]
    rows = np.unique(rng.integers(0, sizes, (count, len(sizes))), axis=0)
    return rng.permutation(rows)


@pytest.fixture
def table():
    archs = np.array([[0, 0, 3], [2, 1, 0], [1, 0, 2]])
    accuracy = np.array([[1, 2], [3, np.nan], [5, 6]])
    return benchmarks.make_table(
        "small", SMALL, archs, {"accuracy": accuracy, "cost": [7, 8, 9]}, {"cost": "in s"}, {"accuracy": ("12", "200")}
    )


# Rows and queries.


@pytest.mark.parametrize("choices", [SMALL, LARGE], ids=["lookup", "bisection"])
@pytest.mark.parametrize("count", [1, 5, 4000])
def test_index_is_that_of_a_dictionary(choices, count):
    archs = draw(choices, count)
    others = draw(choices, 500, seed=1)
    index = jax.jit(jax.vmap(benchmarks.make_table("t", choices, archs, {"m": np.zeros(len(archs))}).index))
    rows = {tuple(arch): row for row, arch in enumerate(archs.tolist())}
    asked = np.concatenate([archs, others, others + 1, archs[:1] - 1]).astype(np.int32)
    found = index(asked)
    assert found.dtype == jnp.int32
    assert found.tolist() == [rows.get(tuple(arch), -1) for arch in asked.tolist()]


def test_bisection_compares_all_words_of_a_code():
    """Thirty-two choices of eight make four words; rows that differ in one entry only are told apart."""
    choices = tuple(Choice(str(d), tuple("01234567")) for d in range(32))
    base = np.full((1, 32), 3)
    archs = np.concatenate([base, *(base + step * np.eye(32, dtype=int) for step in (-3, 1, 4))])
    index = jax.jit(jax.vmap(benchmarks.make_table("t", choices, archs, {"m": np.zeros(len(archs))}).index))
    assert index(archs).tolist() == list(range(97))
    assert (index(base + 2 * np.eye(32, dtype=int)) == -1).all()


def test_query_gives_the_value_of_a_fidelity_and_nan_where_there_is_none(table):
    archs = jnp.asarray([[0, 0, 3], [2, 1, 0], [1, 0, 2], [0, 0, 0], [3, 0, 0]])
    traced = jax.jit(jax.vmap(lambda arch, fidelity: table.query(arch, "accuracy", fidelity), (0, None)))
    for fidelity in range(-3, 4):
        found = traced(archs, fidelity)
        column = {-2: [1, 3, 5], 0: [1, 3, 5], -1: [2, np.nan, 6], 1: [2, np.nan, 6]}.get(fidelity, [np.nan] * 3)
        np.testing.assert_array_equal(found, np.array([*column, np.nan, np.nan], np.float32))
        assert found.dtype == jnp.float32
    np.testing.assert_array_equal(jax.vmap(lambda arch: table.query(arch, "cost"))(archs[:3]), [7, 8, 9])
    assert [float(table.query(archs[2], name)) for name in ("accuracy@12", "accuracy@200", "accuracy")] == [5, 6, 6]
    assert float(table.query(archs[0], "accuracy", 0)) == 1
    assert benchmarks.missing(table) == {"accuracy@12": 0, "accuracy@200": 1, "cost": 0}


@pytest.mark.parametrize(
    ("metric", "fidelity", "message"),
    [
        ("loss", -1, "no metric 'loss'; there are accuracy, cost"),
        ("accuracy", 2, "fidelities 0 to 1, or -1 for the last, got 2"),
        ("cost", -2, "fidelities 0 to 0"),
        ("accuracy@90", -1, r"no fidelity '90'; it has \['12', '200'\]"),
        ("cost@12", -1, r"no fidelity '12'; it has \[\]"),
        ("accuracy@12", 0, "names its fidelity; leave out"),
    ],
)
def test_a_wrong_query_says_what_there_is(table, metric, fidelity, message):
    with pytest.raises(ValueError, match=message):
        table.query(table.archs[0], metric, fidelity)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"archs": [[0, 0, 0], [0, 2, 0]]}, "row 1 of archs: choice 'b' has options 0 to 1, got 2"),
        ({"archs": [[0, 0, 0], [0, -1, 0]]}, "row 1 of archs: .* got -1"),
        ({"archs": [[0, 0, 1], [0, 0, 1]]}, "row 1 of archs: the same architecture as row 0; keep one"),
        ({"archs": [[0.0, 0, 0], [0, 1, 0]]}, r"integers \[A, 3\].* got float64 \[2, 3\]"),
        ({"archs": [[0, 0], [0, 1]]}, r"integers \[A, 3\]"),
        ({"metrics": {}}, "at least one metric"),
        ({"metrics": {"m": [1]}}, r"'m' must be numbers \[2\] or \[2, F\].* got int64 \[1\]"),
        ({"metrics": {"m": ["1", "2"]}}, "'m' must be numbers"),
        ({"metrics": {"m": [[1, 2], [3, np.inf]]}}, "'m', row 1, fidelity 1: infinite"),
        ({"metrics": {"m": [1, 1e39]}}, "'m', row 1: infinite in float32"),
        ({"metrics": {"m@1": [1, 2]}}, "'m@1': '@' divides"),
        ({"fidelities": {"m": ["1"]}}, r"'m' needs 2 different labels of fidelities, got \['1'\]"),
        ({"fidelities": {"m": ["1", "1"]}}, "2 different labels"),
        ({"descriptions": {"n": "…"}}, "descriptions name 'n', which is no metric; there are m"),
    ],
)
def test_make_table_refuses_what_is_no_table(change, message):
    right = {"archs": [[0, 0, 0], [0, 1, 0]], "metrics": {"m": [[1, 2], [3, 4]]}}
    benchmarks.make_table("t", SMALL, **right)
    with pytest.raises(ValueError, match=message):
        benchmarks.make_table("t", SMALL, **(right | change))


# Files of any user.


def test_a_csv_of_option_numbers(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text(
        '\ufeffx,acc@9,y,acc@27,acc@3,loss,note\n1,2,0,3,1,.5,-\n\n0, 5,2, ,4,nan,"a\nb"\n2,8,1,9,7,1e-1,-\n'
    )
    found = benchmarks.load_table(path, encoding=["x", "y"], metrics=["acc", "loss"])
    assert found.name == "mine"
    assert found.choices == (Choice("x", ("0", "1", "2")), Choice("y", ("0", "1", "2")))
    assert found.archs.tolist() == [[1, 0], [0, 2], [2, 1]]
    assert found.fidelities == {"acc": ("3", "9", "27")}  # in the order of numbers, not of columns
    np.testing.assert_array_equal(found.metrics["acc"], [[1, 2, 3], [4, 5, np.nan], [7, 8, 9]])
    np.testing.assert_array_equal(found.metrics["loss"], np.array([0.5, np.nan, 0.1], np.float32))
    choices = (Choice("p", ("a", "b", "c", "d")), Choice("q", ("a", "b", "c")))
    again = benchmarks.load_table(path, choices, encoding=["x", "y"], metrics=["acc@9"], name="other")
    assert (again.name, again.choices, list(again.metrics)) == ("other", choices, ["acc"])
    # Three of twelve, none of which has another at one change: the two others are the neighbors of each.
    np.testing.assert_array_equal(np.sort(again.moves.neighbors(again.archs[0])[0], axis=0), [[0, 1], [2, 2]])


def test_the_values_that_occur_are_the_options(tmp_path):
    """Numbers in their order however they are written, words in that of the alphabet; no option is empty."""
    path = tmp_path / "values.csv"
    path.write_text("kernel,kind,acc\n11,relu,1\n3,swish,2\n3.0, relu,3\n11.0,swish,4\n")
    found = benchmarks.load_table(path, encoding=["kernel", "kind"])
    assert found.choices == (Choice("kernel", ("3", "11")), Choice("kind", ("relu", "swish")))
    assert found.archs.tolist() == [[1, 0], [0, 1], [0, 0], [1, 1]]
    np.savez(tmp_path / "values.npz", archs=np.array([[1, 5], [2, 5]]), acc=np.zeros(2))
    found = benchmarks.load_table(tmp_path / "values.npz")
    assert [choice.options for choice in found.choices] == [("1", "2"), ("5",)]


def test_architecture_strings_and_genotypes_of_any_space(tmp_path):
    """The DARTS space has 10^18 architectures: far more than a table of rows can hold."""
    space = spaces.darts_space()
    archs = jax.vmap(space.sample)(jax.random.split(jax.random.key(0), 5))
    lines = [space.notation(archs[0]), json.dumps(space.to_genotype(archs[1])), *map(space.notation, archs[2:])]
    texts = ['"' + line.replace('"', '""') + '"' for line in lines]
    path = tmp_path / "darts.csv"
    path.write_text("\n".join(["arch,acc", *(f"{text},{row}" for row, text in enumerate(texts))]))
    found = benchmarks.load_table(path, space, architecture="arch")
    np.testing.assert_array_equal(found.archs, archs)
    np.testing.assert_array_equal(jax.vmap(lambda arch: found.query(arch, "acc"))(archs), np.arange(5))
    assert jnp.isnan(found.query(space.mutate(jax.random.key(1), archs[0]), "acc"))


def test_an_npz_of_arrays(tmp_path):
    path = tmp_path / "mine.npz"
    archs = draw(SMALL, 10)
    count = len(archs)
    curve = np.arange(3.0 * count).reshape(count, 3)
    np.savez(path, archs=archs.astype(np.uint8), curve=curve, **{"acc@b": curve[:, 0], "acc@a": curve[:, 1]})
    found = benchmarks.load_table(path, SMALL)
    np.testing.assert_array_equal(found.archs, archs)
    np.testing.assert_array_equal(found.metrics["curve"], curve)
    np.testing.assert_array_equal(found.metrics["acc"], curve[:, :2])
    assert found.fidelities == {"curve": ("0", "1", "2"), "acc": ("b", "a")}  # words stay in the order of the file
    named = benchmarks.load_table(path, metrics=["acc"])
    assert [choice.name for choice in named.choices] == ["position 0", "position 1", "position 2"]
    strings = [spaces.nasbench201_space().notation(cell) for cell in CELLS[:count]]
    np.savez(path, arch=strings, acc=curve[:, 0])
    found = benchmarks.load_table(path, spaces.nasbench201_space(), architecture="arch")
    np.testing.assert_array_equal(found.archs, CELLS[:count])


def test_a_saved_table_is_read_back(tmp_path, table):
    path = tmp_path / "t.npz"
    benchmarks.save_table(table, path)
    for again in (benchmarks.load_table(path), benchmarks.load_table(path, SMALL)):
        for part in ("name", "choices", "descriptions", "fidelities"):
            assert getattr(again, part) == getattr(table, part)
        jax.tree.map(np.testing.assert_array_equal, (again.archs, again.metrics), (table.archs, table.metrics))
    with pytest.raises(ValueError, match="saved with other choices"):
        benchmarks.load_table(path, (*SMALL[:2], Choice("c", ("x", "y", "z", "w"))))
    with pytest.raises(ValueError, match=r"saved as \.npz"):
        benchmarks.save_table(table, tmp_path / "t.csv")


def test_a_saved_table_over_a_space_of_ones_own_is_read_with_that_space(tmp_path):
    space, path = spaces.product_space("mine", {"width": (8, 16), "depth": (1, 2)}), tmp_path / "t.npz"
    benchmarks.save_table(benchmarks.make_table("t", space, [[0, 1], [1, 0]], {"valid": [1.0, 2.0]}), path)
    with pytest.raises(ValueError, match=r"saved over the space 'mine', .* give it as load_table\(path, space\)"):
        benchmarks.load_table(path)
    assert benchmarks.load_table(path, space).query(jnp.array([1, 0]), "valid") == 2.0


def test_a_fingerprint_is_of_what_a_table_gives_and_not_of_its_file(tmp_path, table):
    known = table_fingerprint(table)
    assert {**known, "checksum": ""} == {
        "rows": 3, "choices": [choice.name for choice in SMALL], "metrics": ["accuracy@12", "accuracy@200", "cost"],
        "checksum": "",
    }  # fmt: skip
    names = [choice.name for choice in SMALL]
    lines = [",".join([*names, "cost", "accuracy@200", "accuracy@12"]), "0,0,3,7,2,1", "2,1,0,8,,3.00", "1,0,2,9,6,5"]
    for line in range(2):
        (tmp_path / "other.csv").write_text("\n".join(lines) + "\n" * line)
        csv = benchmarks.load_table(tmp_path / "other.csv", SMALL, encoding=names)
        assert table_fingerprint(csv) == known
    benchmarks.save_table(table, tmp_path / "t.npz")
    assert table_fingerprint(benchmarks.load_table(tmp_path / "t.npz")) == known

    def changed(choices=SMALL, archs=table.archs, metrics=table.metrics, fidelities=table.fidelities):
        other = table_fingerprint(benchmarks.make_table("small", choices, archs, metrics, {}, fidelities))
        return {name for name in known if other[name] != known[name]}

    accuracy = table.metrics["accuracy"]
    assert changed() == set()
    missing = np.where(np.isnan(accuracy), np.copysign(np.float32(np.nan), -1), accuracy)
    assert changed(metrics={**table.metrics, "accuracy": missing}) == set()  # whatever its bits are
    assert changed(archs=table.archs[::-1]) == {"checksum"}
    assert changed(metrics={**table.metrics, "accuracy": accuracy.at[1, 0].add(1e-6)}) == {"checksum"}
    assert changed(metrics={**table.metrics, "accuracy": accuracy.at[1, 1].set(0)}) == {"checksum"}
    assert changed(choices=(*SMALL[:2], Choice(SMALL[2].name, ("w", "x", "y", "z")))) == {"checksum"}
    assert changed(fidelities={"accuracy": ("12", "100")}) == {"metrics", "checksum"}


GOOD = "x,y,acc\n0,1,5\n1,0,6\n1,1,\n"


@pytest.mark.parametrize(
    ("old", "new", "options", "message"),
    [
        ("1,0,6", "1,0,six", {}, "line 3, column 'acc': 'six' is no number; leave the cell empty"),
        ("1,0,6", "1,0,inf", {}, "line 3, column 'acc': an infinite value"),
        ("1,0,6", "\n1,0.5,6", {"space": SMALL[:2]}, "line 4, column 'y': '0.5' is no integer"),
        ("1,0,6", "1,-1,6", {"space": SMALL[:2]}, "line 3, column 'y': choice 'b' has options 0 to .*, got -1"),
        (
            "1,0,6",
            "".join(f"1,{n},6\n" for n in range(1001)),
            {},
            "column 'y': 1001 different values; give the choices",
        ),
        ("1,0,6", "0,1,6", {}, "line 3, column 'x': the same architecture as line 2"),
        ("1,0,6", "1,0", {}, "line 3: 2 cells where the header has 3 columns"),
        ("1,0,6", '1,0,"6', {}, "line 4: unexpected end of data; write comma-separated"),
        ("x,y", "x,x", {}, "line 1: column 2 is called 'x'; give every column its own name"),
        ("acc", "acc@", {}, "column 'acc@': write NAME@LABEL"),
        (GOOD, "x,y,acc\n", {}, "has no rows"),
        (GOOD, "", {}, "has no header"),
        (GOOD, "x y acc\n0 1 5\n", {}, "no column 'x'; it has x y acc"),
        ("", "", {"encoding": ["x", "z"]}, "no column 'z'; it has x, y, acc"),
        ("", "", {"encoding": ["x", "y", "acc"]}, "line 4, column 'acc': '' is no option"),
        ("", "", {"encoding": []}, "names no column"),
        ("", "", {"encoding": None}, r"by architecture=COLUMN .* or encoding=\[COLUMN, …\].* there are x, y, acc"),
        ("", "", {"metrics": ["loss"]}, "no metric 'loss'; it has acc"),
        ("", "", {"space": SMALL}, "the encoding has 2 columns and the space 3 choices, a, b, c"),
        (
            "",
            "",
            {"space": (SMALL[1], Choice("q", ("0",)))},
            "line 2, column 'y': choice 'q' has options 0 to 0, got 1",
        ),
        ("", "", {"architecture": "x"}, "give one of architecture= and encoding="),
        ("", "", {"architecture": "x", "encoding": None}, "read by a space; give one"),
        (
            "",
            "",
            {"architecture": "x", "encoding": None, "space": spaces.nasbench201_space()},
            "line 2, column 'x': '0' has 1 nodes; write three",
        ),
    ],
)
def test_a_wrong_csv_says_where_and_what(tmp_path, old, new, options, message):
    path = tmp_path / "bad.csv"
    path.write_text(GOOD)
    benchmarks.load_table(path, encoding=["x", "y"])
    path.write_text(GOOD.replace(old, new, 1))
    with pytest.raises(ValueError, match=message) as error:
        benchmarks.load_table(path, **({"encoding": ["x", "y"]} | options))
    assert "\n" not in str(error.value)


def test_files_that_are_no_tables(tmp_path):
    def refused(path, message, **options):
        with pytest.raises(ValueError, match=message):
            benchmarks.load_table(path, **options)

    with pytest.raises(OSError, match=r"absent\.npz"):
        benchmarks.load_table(tmp_path / "absent.npz")
    refused(tmp_path / "t.parquet", r"a file that ends in one of \.csv, .*\.npz, got '\.parquet'")
    csv, npz = tmp_path / "t.csv", tmp_path / "t.npz"
    csv.write_bytes(b"x,acc\n0,\xff\n")
    refused(csv, "not UTF-8 text", encoding=["x"], metrics=["acc"])
    for content in (b"", b"text", pickle.dumps([1]), b"PK\x03\x04"):
        npz.write_bytes(content)
        refused(npz, "not an npz archive")
    np.save(tmp_path / "t.npy", np.zeros(3))
    os.replace(tmp_path / "t.npy", npz)
    refused(npz, "a single array, not an npz archive")
    archs = np.eye(3, dtype=int)
    np.savez(npz, archs=archs, acc=np.array([{}, {}, {}], object))
    refused(npz, "array 'acc': .*allow_pickle=False; save numbers or strings")
    np.savez(npz, archs=archs, acc=np.zeros(4))
    refused(npz, r"array 'acc': .*the same A, got archs \[3, 3\], acc \[4\]")
    np.savez(npz, archs=np.where(archs, np.nan, 1.0), acc=np.zeros(3))
    refused(npz, "array 'archs': an encoding holds integers or words, got float64 with gaps")
    np.savez(npz, archs=archs, acc=["a", "b", "c"])
    refused(npz, "no column of numbers beside the architectures")
    refused(npz, "row 0, column 'acc': 'a' is no number", metrics=["acc"])
    np.savez(npz, archs=archs)
    refused(npz, "no column beside the architectures")
    np.savez(npz, archs=archs, acc=[1, np.inf, 2])
    refused(npz, "row 1, column 'acc': an infinite value")
    np.savez(npz, archs=archs, acc=np.zeros(3), **{"acc@1": np.zeros(3)})
    refused(npz, "'acc' is there with and without fidelities")
    np.savez(npz, archs=archs, acc=np.zeros(3), **{"@table": np.array("{}")})
    refused(npz, "array '@table': not as save_table writes it")
    with zipfile.ZipFile(npz, "w") as archive:
        archive.writestr("archs.npy", b"\x93NUMPY\x01\x00")
    refused(npz, "array 'archs': ")


# NAS-Bench-201.


def write_nasbench201(path, cells, change=("", "")):
    space = spaces.nasbench201_space()
    header = "index,arch_str,iso_class,c10_test_200,c10valid_oritest_200_s888,c10_val_12,c10_test_12,"
    header += "c10_flops_M,c10_params_M"
    lines = [
        f"{i},{space.notation(cell)},0,{90 + i},{80 + i},{50 + i},{70 + i},15.64737,.129306"
        for i, cell in enumerate(cells)
    ]
    path.write_text("\n".join([header, *lines]).replace(*change))
    return benchmarks.nasbench201_table(path)


def test_the_nasbench201_csv(tmp_path):
    cells = draw(spaces.nasbench201_space().choices, 40)
    table = write_nasbench201(tmp_path / "nb.csv", cells)
    np.testing.assert_array_equal(table.archs, cells)
    times = [name for name in table.metrics if name.endswith("_train_time")]
    assert table.fidelities == {"c10_val": ("12",), **dict.fromkeys(["c10_test", *times], ("12", "200"))}
    values = {name: float(table.query(cells[2], name)) for name in table.metrics if name not in times}
    assert values == {
        "index": 2,
        "iso_class": 0,
        "c10_val": 52,
        "c10_test": 92,
        "c10valid_oritest_200_s888": 82,
        "c10_macs": 15647370,
        "c10_params": 129306,
    }
    assert float(table.query(cells[2], "c10_test@12")) == 72
    for name, dataset in zip(times, ("cifar10-valid", "cifar100", "ImageNet16-120"), strict=True):
        expected = [benchmarks.nasbench201_time(15647370, epochs, dataset) for epochs in (12, 200)]
        np.testing.assert_allclose(table.metrics[name][0], expected, rtol=1e-6)
    assert "TEST" in table.descriptions["c10valid_oritest_200_s888"]
    assert set(table.descriptions) == set(table.metrics) - {"iso_class"}
    # Strings that only the careful reader knows are read all the same.
    again = write_nasbench201(tmp_path / "nb.csv", cells, change=(",|", ", |"))
    np.testing.assert_array_equal(again.archs, cells)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("none~1", "zero~1"), "line 2, column 'arch_str': edge 4, into node 3: unknown operation 'zero'"),
        (("\n1,", "\n0,"), "line 3, column 'index': 0 is the number of another row"),
        (("\n1,", "\n15625,"), "line 3, column 'index': 15625 is no number of a cell; there are 0 to 15624"),
        (("none~1", "skip_connect~1"), "line 3, column 'arch_str': the same architecture as line 2"),
        (("arch_str", "arch"), "no column 'arch_str'; it has index, arch, "),
        ((",90,", ",ninety,"), "line 2, column 'c10_test_200': 'ninety' is no number"),
    ],
)
def test_a_wrong_nasbench201_csv_says_where_and_what(tmp_path, change, message):
    arch = spaces.nasbench201_space().from_genotype(STRING)
    cells = np.array([arch, arch.at[4].set(1)])
    with pytest.raises(ValueError, match=message):
        write_nasbench201(tmp_path / "nb.csv", cells, change)


def test_the_hardware_csv(tmp_path):
    table = write_nasbench201(tmp_path / "nb.csv", CELLS[:4])
    path = tmp_path / "hw.csv"
    right = "index,c10_edgetpu_latency,in16_fpga_energy\n3,-1,4\n0,1.5,5\n"
    path.write_text(right)
    found = benchmarks.hw_nasbench201_table(path, table)
    np.testing.assert_array_equal(found.archs, CELLS[[3, 0]])
    np.testing.assert_array_equal(found.metrics["c10_edgetpu_latency"], [np.nan, 1.5])
    assert benchmarks.missing(found) == {"c10_edgetpu_latency": 1, "in16_fpga_energy": 0}
    assert found.descriptions["in16_fpga_energy"] == "ImageNet-16-120 network: energy in mJ on the FPGA, estimated"
    for old, new, message in (
        ("3,-1,4", "15625,-1,4", "line 2, column 'index': 15625 is no number of a cell; NAS-Bench-201 has 0"),
        ("3,-1,4", "0,-1,4", "line 3, column 'index': the same architecture as line 2"),
        ("3,-1,4", "3,-2,4", "line 2, column 'c10_edgetpu_latency': -2 is negative; only -1"),
        ("in16_fpga", "in16_gpu", "column 'in16_gpu_energy' is none of HW-NAS-Bench's"),
        (",c10_edgetpu_latency,in16_fpga_energy\n3,-1,4\n0,1.5,5", "\n3\n0", "no column beside index"),
    ):
        path.write_text(right.replace(old, new))
        with pytest.raises(ValueError, match=message):
            benchmarks.hw_nasbench201_table(path, table)


def partition(keys):
    numbers = {}
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys])


def test_functional_classes_are_those_of_a_random_function():
    """With a random function that keeps zero for each operation, a cell's value tells its function."""
    steep, bent = np.random.default_rng(0).uniform(0.5, 1.5, (2, 5))
    functions = [lambda x: 0 * x, lambda x: x]
    functions += [lambda x, o=o: np.arctan(steep[o] * x) + bent[o] * np.sin(x) ** 2 for o in (2, 3, 4)]
    nodes = [np.full(len(CELLS), 0.7)]
    for slots in ((0,), (1, 2), (3, 4, 5)):
        terms = [np.choose(CELLS[:, slot], [f(nodes[source]) for f in functions]) for source, slot in enumerate(slots)]
        nodes.append(np.sum(terms, axis=0))
    found = benchmarks.functional_classes(CELLS)
    assert found.dtype == np.int32
    assert found.max() + 1 == len(np.unique(found)) == 4930
    np.testing.assert_array_equal(found, partition(np.round(nodes[3], 9).tolist()))


def test_official_classes_are_as_many_as_published_and_lie_inside_the_functional_ones():
    official, functional = benchmarks.official_classes(CELLS), benchmarks.functional_classes(CELLS)
    assert official.max() + 1 == len(np.unique(official)) == 6466
    assert len(set(zip(official.tolist(), functional.tolist(), strict=True))) == 6466
    np.testing.assert_array_equal(official, partition(official.tolist()))  # numbered as they come up


@pytest.mark.parametrize(
    ("first", "second", "official", "functional"),
    [
        ([0, 0, 0, 0, 0, 0], [0, 3, 0, 0, 0, 0], True, True),  # what leads nowhere
        ([0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 3], False, True),  # the official string sees no zero in a sum of zeroes
        ([0, 0, 0, 0, 3, 0], [0, 0, 0, 0, 4, 0], True, True),  # an operation of zero is zero
        ([0, 0, 3, 3, 0, 0], [0, 0, 4, 3, 0, 0], True, True),
        ([0, 3, 0, 0, 0, 1], [3, 0, 0, 0, 1, 0], False, True),  # one convolution, with more zeroes by way of node 2
        ([3, 0, 0, 0, 1, 0], [0, 0, 0, 3, 0, 0], True, True),  # a skip is transparent
        ([3, 0, 0, 0, 3, 0], [0, 3, 0, 0, 0, 3], False, True),  # the same two convolutions by way of node 1 or 2
        ([1, 0, 0, 0, 3, 0], [0, 0, 0, 3, 0, 0], True, True),
        ([1, 0, 0, 0, 3, 0], [0, 0, 0, 2, 0, 0], False, False),
        ([0, 0, 0, 3, 0, 0], [0, 0, 0, 4, 0, 0], False, False),
        ([1, 1, 1, 0, 0, 1], [1, 0, 0, 1, 1, 0], False, True),  # twice the input
        ([1, 1, 1, 0, 0, 1], [0, 0, 0, 1, 0, 0], False, False),  # twice is not once
    ],
)
def test_equal_functions_and_equal_strings(first, second, official, functional):
    pair = np.array([first, second])
    assert (len(set(benchmarks.official_classes(pair).tolist())) == 1) == official
    assert (len(set(benchmarks.functional_classes(pair).tolist())) == 1) == functional


def test_the_partitions_refuse_what_is_no_cell():
    for classes in (benchmarks.official_classes, benchmarks.functional_classes):
        with pytest.raises(ValueError, match=r"integers \[A, 6\], got int64 \[6\]"):
            classes(np.zeros(6, int))
        with pytest.raises(ValueError, match="row 1, edge 5: operations are 0 to 4, got 5"):
            classes(np.array([[0] * 6, [0] * 5 + [5]]))


def test_the_time_is_the_least_squares_line_through_the_three_records():
    macs = np.array([15.64737, 113.95137, 11.71521]) * 1e6
    slope, constant = np.polyfit(macs, [7.22109, 12.46206, 4.87579], 1)
    line = constant + slope * macs
    np.testing.assert_allclose(benchmarks.nasbench201_time(macs, 1), line, rtol=1e-5)
    np.testing.assert_allclose(jax.jit(benchmarks.nasbench201_time)(macs[0]), 12 * line[0], rtol=1e-5)
    time = benchmarks.nasbench201_time(jnp.asarray(macs, jnp.float32), 200, "ImageNet16-120")
    np.testing.assert_allclose(time, 200 * 6.068 * line, rtol=1e-5)
    with pytest.raises(ValueError, match="no time of 'svhn'; there are cifar10-valid"):
        benchmarks.nasbench201_time(macs, 12, "svhn")
    with pytest.raises(ValueError, match="at least 1, got 0"):
        benchmarks.nasbench201_time(macs, 0)


# The official release.


def make_runs(seed):
    """(JSON, pickled) forms of the same runs."""
    rng = np.random.default_rng(seed)
    listed, results = [], {}
    for dataset, run_seed in (("cifar10-valid", 777), ("cifar10-valid", 888), ("cifar100", 777)):
        epochs = 3
        accuracy, loss = rng.uniform(1, 99, epochs).tolist(), rng.uniform(0, 2, epochs).tolist()
        valid, test = rng.uniform(1, 99, epochs).tolist(), float(rng.uniform(1, 99))
        last = "ori-test" if dataset == "cifar10-valid" else "x-test"
        run = {"dataset": dataset, "seed": run_seed, "epochs": epochs, "flops_M": 15.5, "params_M": 0.25}
        run |= {"latency_s": [0.5, 0.25], "train_acc1": accuracy, "train_loss": loss, "train_time_s_per_epoch": 7.5}
        listed.append(run | {"eval_acc1": {"x-valid": valid, last: [test]}})
        results[dataset, run_seed] = {
            "name": "infer.tiny",
            "seed": run_seed,
            "epochs": epochs,
            "flop": np.float64(15.5),
            "params": np.float32(0.25),
            "latency": np.array([0.5, -1, 0.25]),
            "train_acc1es": collections.OrderedDict(enumerate(accuracy)),
            "train_losses": dict(enumerate(map(np.float64, loss))),
            "train_times": collections.OrderedDict.fromkeys(range(epochs), 7.5),
            "eval_acc1es": {f"x-valid@{epoch}": value for epoch, value in enumerate(valid)} | {f"{last}@2": test},
            "eval_names": {"x-valid", last},
            "net_state_dict": None,
            "arch_config": collections.defaultdict(list, channel=16),
        }
    return listed, results


@pytest.fixture
def release(tmp_path):
    """A folder as the release has it and the same records in JSON, of three cells."""
    folder, entries = tmp_path / "simple", []
    folder.mkdir()
    for number, cell in ((11, CELLS[7]), (0, CELLS[3]), (284, CELLS[-1])):
        arch = spaces.nasbench201_space().notation(cell)
        entry, content = {"index": number, "arch_str": arch}, {}
        for schedule in ("12", "200") if number else ("12",):
            entry[schedule], results = make_runs(number + len(schedule))
            content[schedule] = {"arch_index": number, "arch_str": arch, "all_results": results, "clear_net_done": True}
        entries.append(entry)
        (folder / f"{number:06d}.pickle.pbz2").write_bytes(bz2.compress(pickle.dumps(content, protocol=4)))
    (folder / "meta.pickle.pbz2").write_bytes(b"not read")
    (tmp_path / "records.json").write_text(json.dumps(entries))
    return folder, tmp_path / "records.json"


def test_the_release_is_read_from_pickles_and_from_json(release):
    folder, listed = release
    records = {record.number: record for record in nats_records(folder)}
    assert records == {record.number: record for record in nats_records(listed)}
    trial = records[11].trials["200"][1]
    assert (trial.dataset, trial.seed, trial.latency, trial.train_time) == ("cifar10-valid", 888, 0.375, 7.5)
    assert list(trial.accuracy["ori-test"]) == [2]
    tables = [benchmarks.nats_table(path) for path in release]
    jax.tree.map(np.testing.assert_array_equal, *((table.archs, table.metrics) for table in tables))
    table = tables[0]
    assert table.archs.tolist() == CELLS[[3, 7, -1]].tolist()
    mean = np.mean([run.accuracy["x-valid"][2] for run in records[11].trials["200"][:2]])
    np.testing.assert_allclose(table.query(CELLS[7], "c10_val@200"), mean, rtol=1e-6)
    assert float(table.query(CELLS[7], "c100_test@12")) == np.float32(records[11].trials["12"][2].accuracy["x-test"][2])
    assert float(table.query(CELLS[7], "c10_train_time@12")) == 22.5
    assert benchmarks.missing(table)["c10_val@200"] == 1
    assert benchmarks.missing(table)["in16_test@12"] == 3


class Call:
    """Pickled, it is a call of something."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda path: Call(os.mkdir, str(path)), "posix.mkdir"),
        (lambda path: Call(eval, f"__import__('os').mkdir({str(path)!r})"), "_*builtins?_*.eval"),
        (lambda path: Call(getattr, "", "join"), "_*builtins?_*.getattr"),
        (lambda path: np.lib.npyio.NpzFile, "numpy.*NpzFile"),
        (lambda path: np.ones(2).view(np.matrix), "numpy.*matrix"),
    ],
)
def test_a_pickle_that_names_anything_else_is_refused_and_nothing_is_called(release, tmp_path, call, name):
    folder, _ = release
    file = folder / "000284.pickle.pbz2"
    for protocol in (0, 2, 4, 5):
        file.write_bytes(bz2.compress(pickle.dumps({"12": call(tmp_path / "made")}, protocol)))
        with pytest.raises(ValueError, match=rf"000284.pickle.pbz2: .*refers to {name}, which .* refused"):
            benchmarks.nats_table(folder)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"text", "not a bzip2 file"),
        (bz2.compress(b""), "not a pickle of the release"),
        (bz2.compress(b"\x80\x04]q"), "not a pickle of the release"),
        (bz2.compress(pickle.dumps([1])), "not a record of the release"),
        (bz2.compress(pickle.dumps({})), "not a record of the release"),
        (bz2.compress(pickle.dumps({"12": {"arch_index": 1}})), "not a record of the release .*'arch_str'"),
        (bz2.compress(pickle.dumps(np.zeros(1, "U3"))), "numbers of type 'U3'"),
        (bz2.compress(pickle.dumps(np.zeros((2, 2)))), "an array"),
        (bz2.compress(pickle.dumps(np.array([{}], object))), "numbers of type 'O8'"),
    ],
)
def test_a_broken_release_names_the_file(release, content, message):
    folder, _ = release
    (folder / "000011.pickle.pbz2").write_bytes(content)
    with pytest.raises(ValueError, match=rf"000011.pickle.pbz2: .*{message}"):
        list(nats_records(folder))


def test_a_wrong_folder_or_json_is_refused(release, tmp_path):
    _, listed = release
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"no files like 000000\.pickle\.pbz2"):
        benchmarks.nats_table(tmp_path / "empty")
    with pytest.raises(OSError, match="absent"):
        benchmarks.nats_table(tmp_path / "absent.json")
    with pytest.raises(OSError, match="absent"):
        benchmarks.nats_table(tmp_path / "absent")
    entries = json.loads(listed.read_text())
    for change, message in (
        ([], "has no records"),
        ({"index": 0}, r"not records of NATS-Bench in JSON \(TypeError"),
        ([entries[0], entries[0]], "record 11 is there twice"),
        (
            [entries[0], entries[1] | {"arch_str": entries[0]["arch_str"]}],
            "record 11: the same architecture as record 0",
        ),
        ([entries[0] | {"arch_str": STRING[:-1]}], "record 11: node 3 is"),
        ([{"index": 0, "arch_str": STRING, "12": [{}]}], r"KeyError: 'epochs'"),
    ):
        listed.write_text(json.dumps(change))
        with pytest.raises(ValueError, match=message):
            benchmarks.nats_table(listed)
