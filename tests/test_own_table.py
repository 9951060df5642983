"""Tables of any user: files as people write them, spaces by name, sparse rows, repeats, and the page about them."""

import csv
import itertools
import json
import re
import shlex
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import predictor, tabular
from jaxnas import benchmarks, command, hardware, spaces
from jaxnas.benchmarks.near import nearest_rows
from jaxnas.benchmarks.repeats import join_repeats
from jaxnas.files import read_json
from jaxnas.tabular import known, make_setting

PAGE = Path(__file__).parents[1] / "docs" / "own_table.md"
GRID = list(itertools.product((3, 5, 7), (16, 32, 64), ("relu", "swish"), (1, 2, 3, 4)))
ENCODING = ["kernel", "width", "activation", "depth"]


def accuracy(row):
    return round(70 + 2.5 * row[0] + row[1] / 8 + (row[2] == "swish") + row[3] / 3, 2)


def written(row, value):
    return f"{row[0]},{row[1]},{row[2]},{row[3]},{value}"


PLAIN = "\n".join(["kernel,width,activation,depth,accuracy", *(written(row, accuracy(row)) for row in GRID)])
LINES = PLAIN.split("\n")
RECORDS = [dict(zip([*ENCODING, "accuracy"], (*row, accuracy(row)), strict=True)) for row in GRID]
GERMAN = PLAIN.replace(".", "_").replace(",", ";").replace("_", ",")
FORMS = {
    "plain": ("t.csv", PLAIN),
    "byte order mark": ("t.csv", "\ufeff" + PLAIN),
    "windows lines and blank ones": ("t.csv", PLAIN.replace("\n", "\r\n\r\n")),
    "spaces": ("t.csv", PLAIN.replace(",", " , ")),
    "semicolons": ("t.csv", PLAIN.replace(",", ";")),
    "semicolons and decimal commas": ("t.csv", GERMAN),
    "a line that names the separator": ("t.csv", "sep=;\n" + GERMAN),
    "tabs": ("t.tsv", PLAIN.replace(",", "\t")),
    "tabs in a csv": ("t.csv", PLAIN.replace(",", "\t")),
    "bars": ("t.txt", PLAIN.replace(",", "|")),
    "floats for integers": ("t.csv", re.sub(r"(?m)^(\d),(\d+)", r"\1.0,\2.00", PLAIN)),
    "percent signs": ("t.csv", re.sub(r"(?m)(\.\d+)$", r"\1 %", PLAIN)),
    "the index of pandas": ("t.csv", "\n".join(f"{n - 1 if n else ''},{line}" for n, line in enumerate(LINES))),
    "a separator at the end": ("t.csv", PLAIN.replace("\n", ",\n") + ","),
    "words that nobody asked for": ("t.csv", "\n".join(f"{line},box {'ä' * n}" for n, line in enumerate(LINES))),
    "one huge cell": ("t.csv", "\n".join(f"{line},{'9 ' * 200_000 * (n == 1)}x" for n, line in enumerate(LINES))),
    "records": ("t.json", json.dumps(RECORDS)),
    "a record a line": ("t.jsonl", "\n".join(map(json.dumps, RECORDS))),
    "columns": ("t.json", json.dumps({name: [record[name] for record in RECORDS] for name in RECORDS[0]})),
    "columns of pandas": (
        "t.json",
        json.dumps({name: {str(n): record[name] for n, record in enumerate(RECORDS)} for name in RECORDS[0]}),
    ),
    "split of pandas": (
        "t.json",
        json.dumps({"columns": list(RECORDS[0]), "data": [list(record.values()) for record in RECORDS]}),
    ),
    "records by name": ("t.json", json.dumps({f"net {n}": record for n, record in enumerate(RECORDS)})),
    "records beside a version": ("t.json", json.dumps({"version": 1, "results": RECORDS})),
}  # fmt: skip


def load(folder, name, text, **options):
    path = folder / name
    path.write_text(text, encoding=options.pop("encoded", "utf-8"))
    return benchmarks.load_table(path, **({"encoding": ENCODING, "needed": ["accuracy"]} | options))


@pytest.mark.parametrize("form", sorted(FORMS))
def test_a_table_is_the_same_in_all_forms_that_people_have(form, tmp_path):
    found = load(tmp_path, *FORMS[form])
    assert [choice.options for choice in found.choices] == [
        ("3", "5", "7"), ("16", "32", "64"), ("relu", "swish"), ("1", "2", "3", "4"),
    ]  # fmt: skip
    np.testing.assert_array_equal(found.archs, list(itertools.product(range(3), range(3), range(2), range(4))))
    np.testing.assert_allclose(found.metrics["accuracy"], [accuracy(row) for row in GRID], rtol=1e-6)
    assert found.nearest is None


def test_utf_16_as_spreadsheets_write_it(tmp_path):
    found = load(tmp_path, "t.csv", PLAIN.replace(",", "\t"), encoded="utf-16")
    assert len(found.archs) == 72


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["1,5", "2,25", "3"], [1.5, 2.25, 3]),
        (["1,234.5", "2,000", "1e3"], [1234.5, 2000, 1000]),
        (["1.234,5", "2", "1,0"], [1234.5, 2, 1]),
        (["12 345", "1'000", "7"], [12345, 1000, 7]),
        (["5%", "N/A", "7.5 %"], [5, np.nan, 7.5]),
        (["OOM", "-", "3"], [np.nan, np.nan, 3]),
        (["1_0", "2", "3"], "'1_0' is no number"),
        (["1,234", "2,345", "3"], "may be 1.234 or 1234"),
        (["1,5", "1,234.5", "3"], "'1,234.5' is no number"),
        (["5%", "0.5", "7%"], "'0.5' has no percent sign"),
        (["1", "2", "inf"], "infinite"),
        (["1", "2", "3 ms"], "'3 ms' is no number"),
    ],
)
def test_numbers_as_people_write_them(tmp_path, cells, expected):
    with open(tmp_path / "t.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["a", "good"], *([number, cell] for number, cell in enumerate(cells))])
    if isinstance(expected, str):
        with pytest.raises(ValueError, match=expected) as error:
            benchmarks.load_table(tmp_path / "t.csv", encoding="a", metrics=["good"])
        assert "line " in str(error.value)
    else:
        found = benchmarks.load_table(tmp_path / "t.csv", encoding="a", metrics=["good"])
        np.testing.assert_allclose(found.metrics["good"], expected)


@pytest.mark.parametrize(
    "write",
    [
        "".join,
        "-".join,
        " ".join,
        ",".join,
        lambda parts: f"({', '.join(parts)})",
        lambda parts: str([*map(int, parts)]),
    ],
)
def test_one_column_may_be_the_whole_encoding(tmp_path, write):
    codes = ["".join(code) for code in itertools.product("012", "01", "0123")]
    with open(tmp_path / "t.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["code", "good"], *([write(list(code)), n] for n, code in enumerate(codes))])
    found = benchmarks.load_table(tmp_path / "t.csv", encoding="code")
    np.testing.assert_array_equal(found.archs, [[int(digit) for digit in code] for code in codes])


def test_columns_of_several_digits_are_not_taken_apart(tmp_path):
    (tmp_path / "t.csv").write_text("a,b,good\n10,0,1\n12,1,2\n21,0,3\n")
    found = benchmarks.load_table(tmp_path / "t.csv", encoding=["a", "b"])
    assert found.choices[0].options == ("10", "12", "21")


# Spaces by their names.

MADE = {
    "darts": (spaces.darts_space, {}),
    "darts free": (spaces.darts_space, {"free": True}),
    "darts of three nodes": (spaces.darts_space, {"nodes": 3}),
    "nasbench201": (spaces.nasbench201_space, {}),
    "nasbench101": (spaces.nasbench101_space, {}),
    "natsbench_size": (spaces.natsbench_size_space, {}),
    "enas_micro": (spaces.enas_micro_space, {"nodes": 3}),
    "enas_macro": (spaces.enas_macro_space, {"layers": 4}),
    "chain": (spaces.chain_space, {"depths": (1, 2, 3)}),
}


@pytest.mark.parametrize("case", sorted(MADE))
def test_a_space_is_named_and_read_in_its_notation(case, tmp_path):
    make, options = MADE[case]
    space, name = make(**options), case.split()[0]
    drawn = jax.jit(jax.vmap(lambda key: space.canonical(space.sample(key))))(jax.random.split(jax.random.key(1), 12))
    archs = np.unique(np.asarray(drawn), axis=0)
    texts = [space.notation(arch) if n % 2 else json.dumps(space.to_genotype(arch)) for n, arch in enumerate(archs)]
    with open(tmp_path / "t.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["arch", "good"], *([text, n] for n, text in enumerate(texts))])
    found = benchmarks.load_table(tmp_path / "t.csv", name, architecture="arch")
    assert [choice.options for choice in found.choices] == [choice.options for choice in space.choices]
    np.testing.assert_array_equal(found.archs, archs)
    assert found.space.vocabulary == space.vocabulary
    # Saved and loaded it is of the same space, which has graphs.
    benchmarks.save_table(found, tmp_path / "t.npz")
    again = benchmarks.load_table(tmp_path / "t.npz")
    assert again.space is not None
    np.testing.assert_array_equal(again.archs, archs)
    of = known(again)
    graphs = jax.jit(jax.vmap(of.graph))(again.archs)
    mask = np.asarray(graphs.mask)
    assert mask[:, :, -1].all()
    assert (np.asarray(graphs.ops)[mask] < of.vocabulary).all()
    shape = np.asarray(jax.jit(jax.vmap(of.shape))(graphs))
    assert np.isfinite(shape).all()
    assert (shape.std(axis=0) > 0).any()


def test_what_a_named_space_has_not_is_one_line(tmp_path):
    text = "arch,good\n|none~0|+|none~0|none~1|+|none~0|none~1|none~2|,1\nGenotype(,2\n"
    (tmp_path / "t.csv").write_text(text)
    for name, message in (
        ("nasbench201", "line 3, column 'arch': "),
        ("nasbench202", "there is no space 'nasbench202'; there are darts, "),
        ("natsbench_size", "line 2, column 'arch': .* has 1 layers; write five sizes"),
    ):
        with pytest.raises(ValueError, match=message) as error:
            benchmarks.load_table(tmp_path / "t.csv", name, architecture="arch")
        assert "\n" not in str(error.value)


# Repeats and sparse rows.


def test_repeats_are_what_is_asked_for_by_hand(tmp_path):
    text = "a,b,good,@\n0,0,1,\n0,1,4,\n0,0,3,\n1,0,7,\n0,0,8,\n0,1,,\n".replace(",@", ",n")
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match="line 4, column 'a': the same architecture as line 2"):
        benchmarks.load_table(path, encoding=["a", "b"])
    for how, expected in (("mean", [4, 4, 7]), ("first", [1, 4, 7])):
        found = benchmarks.load_table(path, encoding=["a", "b"], duplicates=how)
        np.testing.assert_array_equal(found.archs, [[0, 0], [0, 1], [1, 0]])
        np.testing.assert_array_equal(found.metrics["good"], expected)
        assert found.notes[-1].startswith("2 architectures have several rows, up to 3: ")
    found = benchmarks.load_table(path, encoding=["a", "b"], duplicates="seeds")
    np.testing.assert_array_equal(found.metrics["good"], [4, 4, 7])
    np.testing.assert_allclose(found.metrics["good_std"], [13**0.5, np.nan, np.nan], rtol=1e-6)
    np.testing.assert_array_equal(found.metrics["good_run2"], [3, np.nan, np.nan])
    np.testing.assert_array_equal(found.metrics["good_run3"], [8, np.nan, np.nan])
    assert "noise of good: a standard deviation of 3.61" in found.notes[-1]
    with pytest.raises(ValueError, match="duplicates are one of refuse, mean, first, seeds"):
        benchmarks.load_table(path, encoding=["a", "b"], duplicates="last")


def test_repeats_of_fidelities_keep_their_labels():
    choices = (spaces.nasbench201_space().choices[0],)
    archs, values = np.array([[0], [0], [1]]), {"m": np.array([[1.0, 2], [3, 6], [5, 7]])}
    _, found, labels, _ = join_repeats(choices, archs, values, {"m": ("4", "12")}, "seeds")
    np.testing.assert_array_equal(found["m"], [[2, 4], [5, 7]])
    assert labels["m_run2"] == ("4", "12")


@pytest.mark.parametrize("count", [30, 400])
def test_the_nearest_rows_are_those_of_brute_force(count, monkeypatch):
    rows = np.random.default_rng(0).integers(0, 4, (count, 9))
    apart = (rows[:, None] != rows[None]).sum(axis=2)
    apart[np.arange(count), np.arange(count)] = 99
    found = nearest_rows(rows, 5)
    np.testing.assert_array_equal(
        np.sort(np.take_along_axis(apart, found, axis=1), axis=1), np.sort(apart, axis=1)[:, :5]
    )
    monkeypatch.setattr("jaxnas.benchmarks.near.MOST_COMPARED", 10)  # as of a table that is too large for all pairs
    near = nearest_rows(rows, 5)
    distances = np.take_along_axis(apart, near, axis=1)
    assert (distances < 99).all()
    assert all(len(set(row)) == 5 for row in near.tolist())
    assert distances.mean() < np.sort(apart, axis=1)[:, :5].mean() + 1 < apart[apart < 99].mean()


def test_a_sparse_table_is_searched_over_its_rows(tmp_path, capsys, monkeypatch):
    """60 of 10^18 cells: every method measures as many rows as it may, and moves are to the nearest."""
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "cache"))
    space = spaces.darts_space()
    archs = np.asarray(jax.jit(jax.vmap(space.sample))(jax.random.split(jax.random.key(0), 60)))
    table = benchmarks.make_table("few", space, archs, {"good": archs.sum(axis=1), "seen": archs[:, 0]})
    near, valid = jax.jit(table.moves.neighbors)(table.archs[3])
    apart = (archs != archs[3]).sum(axis=1)
    assert valid.all()
    assert sorted((np.asarray(near) != archs[3]).sum(axis=1)) == sorted(np.delete(apart, 3))[:16]
    other = jnp.asarray(archs[7]).at[0].set((archs[7][0] + 1) % 1).at[5].set((archs[7][5] + 1) % 7)
    np.testing.assert_array_equal(jax.jit(table.nearest)(other), archs[7])
    np.testing.assert_array_equal(jax.jit(table.nearest)(table.archs[9]), archs[9])
    assert make_setting(table, search="good", report="good").coverage.sparse
    benchmarks.save_table(table, tmp_path / "few.npz")
    given = ["--table", str(tmp_path / "few.npz"), "--search-metric", "good", "--seeds", "3", "--evaluations", "15"]
    before = jax.config.jax_compilation_cache_dir
    try:
        command.main(tabular.main, tabular.Config, [*given, "--workdir", str(tmp_path / "run")])
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
    said = capsys.readouterr().out
    assert said.startswith("few: 60 of the 1.1e+18 architectures are in the table")
    assert "they are sparse" in said.split("\n")[0]
    rows = read_json(tmp_path / "run" / "result.json")["methods"]
    assert {row["method"]: row["evaluations"] for row in rows} == dict.fromkeys(
        ("random", "evolution", "local", "reinforce"), 15
    )


def test_a_signal_may_have_gaps(tmp_path):
    pairs = list(itertools.product(range(4), repeat=2))
    lines = [f"{a},{b},{a + b},{'OOM' if a == b else 10**a + b}" for a, b in pairs]
    (tmp_path / "t.csv").write_text("\n".join(["a,b,good,cost", *lines]))
    table = benchmarks.load_table(tmp_path / "t.csv", encoding=["a", "b"])
    signals = np.asarray(jax.vmap(known(table, ["cost", "good"]).graph)(table.archs).signals)
    there = np.array([a != b for a, b in pairs])
    assert signals.shape == (16, 3)  # cost, whether it is there, good
    np.testing.assert_array_equal(signals[:, 1], there)
    costs = np.log([10**a + b for a, b in pairs if a != b])
    np.testing.assert_allclose(signals[there, 0], costs, rtol=1e-5)
    np.testing.assert_allclose(signals[~there, 0], costs.mean(), rtol=1e-5)


def test_a_part_of_a_known_table_keeps_its_numbers_and_its_own_columns(tmp_path):
    space = spaces.nasbench201_space()
    cells = list(itertools.product(range(5), repeat=6))
    numbers = [9000, 17, 4]
    lines = [
        "index,arch_str,c10_val_12,mine,who",
        *(f"{n},{space.notation(np.array(cells[n]))},{n / 100},{n},me" for n in numbers),
    ]
    (tmp_path / "part.csv").write_text("\ufeff" + "\n".join(lines))
    table = benchmarks.nasbench201_table(tmp_path / "part.csv")
    np.testing.assert_array_equal(table.metrics["mine"], sorted(numbers))  # in the official order
    assert table.notes == ("not read, because it holds words: who",)
    (tmp_path / "hw.csv").write_text("index,c10_fpga_latency\n5,1\n9000,2\n17,3\n")
    found = benchmarks.hw_nasbench201_table(tmp_path / "hw.csv", table)
    values = dict(zip(map(tuple, found.archs.tolist()), found.metrics["c10_fpga_latency"].tolist(), strict=True))
    assert values == {cells[9000]: 2, cells[17]: 3}
    plain = benchmarks.make_table("plain", space, table.archs, {"mine": table.metrics["mine"]})
    with pytest.raises(ValueError, match="lacks 15,622 of them and has no column index that says which"):
        benchmarks.hw_nasbench201_table(tmp_path / "hw.csv", plain)


# The page.


def test_the_page_runs_as_it_stands(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "cache"))
    names, ran = {}, []
    before = jax.config.jax_compilation_cache_dir
    try:
        for kind, text in re.findall(r"```(python|bash)\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL):
            if kind == "python":
                exec(text, names)
                continue
            for line in text.splitlines():
                assert line.startswith("python -m experiments.")
                program = {"tabular": tabular, "predictor": predictor}[shlex.split(line)[2].split(".")[1]]
                command.main(program.main, program.Config, shlex.split(line)[3:])
                ran.append(line)
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
    said = capsys.readouterr().out
    assert len(ran) == 3
    assert "not read, because it holds words: machine" in said
    assert "60 of the " in said
    assert "18 of the 18 architectures are in the table" in said


# Latencies.


def test_a_latency_table_of_ones_own_is_what_its_rows_say(tmp_path):
    space = spaces.nasbench201_space()
    text = "choice;option;milliseconds\nedge 3←0;nor_conv_3x3;1,5\n*;nor_conv_1x1;0,4\n*;nor_conv_3x3;1\n"
    text += "cell;avg_pool_3x3;0,25\nconstant;;2\n"
    (tmp_path / "phone.csv").write_text("\ufeff" + text, encoding="utf-8")
    table = hardware.read_latency_table(tmp_path / "phone.csv", space)
    expected = np.tile([0, 0, 0.4, 1, 0.25], (6, 1))
    expected[3, 3] = 1.5  # the closer row, although it comes first
    np.testing.assert_array_equal(table.milliseconds["cell"], expected)
    assert (table.constant, table.device, table.options) == (2, "phone", spaces.NASBENCH201_OPERATIONS)
    for old, new, message in (
        ("*;nor_conv_1x1;0,4\n", "", "has no time of nor_conv_1x1 for 'edge 1←0', and of 5 more"),
        ("edge 3←0", "edge 0←3", "line 2, column 'choice': no choice 'edge 0←3'; there are edge 1←0, "),
        (
            "cell;avg_pool",
            "cell;max_pool",
            "line 5, column 'option': no option 'max_pool_3x3' of 'cell'; there",
        ),
        ("0,25", "-1", "line 5, column 'milliseconds': a time is 0 or positive, got -1"),
        ("milliseconds", "ms", "has no column 'milliseconds'"),
    ):
        (tmp_path / "phone.csv").write_text(text.replace(old, new), encoding="utf-8")
        with pytest.raises(ValueError, match=re.escape(message)):
            hardware.read_latency_table(tmp_path / "phone.csv", space)


def test_latencies_of_darts_cells_and_chains(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("choice,option,milliseconds\n" + "".join(f"*,{n},1\n" for n in spaces.DARTS_OPERATIONS[1:])
                    + "reduce 4<-2,sep_conv_5x5,3\n", encoding="utf-8")  # fmt: skip
    found = hardware.read_latency_table(path, spaces.darts_space()).milliseconds
    slot = spaces.edge_table(4).index((2, 2))
    assert {kind: value.sum() for kind, value in found.items()} == {"normal": 14 * 7, "reduce": 14 * 7 + 2}
    assert found["reduce"][slot, spaces.DARTS_OPERATIONS.index("sep_conv_5x5")] == 3
    space = spaces.chain_space((1, 2))
    lines = [f"*,{name},1" for name in spaces.CHAIN_BLOCKS if name != "identity"] + ["stage 1 layer 1,shuffle_3x3,5"]
    path.write_text("\n".join(["choice,option,milliseconds", *lines]), encoding="utf-8")
    table = hardware.read_latency_table(path, space)
    texts = ("identity | shuffle_3x3 identity", "shuffle_3x3 | mbconv3_3x3 identity")
    archs = [np.array(space.from_genotype(text)) for text in texts]
    totals = hardware.sums(space, hardware.AdditiveFit(0.0, table.milliseconds), archs)
    np.testing.assert_allclose(totals, [5, 2])
    with pytest.raises(ValueError, match="latencies of enas_micro are no sum"):
        hardware.read_latency_table(path, spaces.enas_micro_space(3))
