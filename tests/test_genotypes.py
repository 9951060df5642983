"""Genotypes as people have them: the forms of programs, papers and logs, and what is no genotype, each in one line."""

import json
import textwrap
from collections import namedtuple

import jax.numpy as jnp
import numpy as np
import pytest

from jaxnas import spaces
from jaxnas.base import Choice, Skeleton
from jaxnas.benchmarks import make_table
from jaxnas.catalog import CATALOG, entry_of_genotype, space_of_genotype
from jaxnas.fit.fixed import layers_of, read_genotype
from jaxnas.networks import darts_network
from jaxnas.spaces.literals import LONGEST, shown
from jaxnas.spaces.published import published_name

DARTS = spaces.darts_space()
NB201 = spaces.nasbench201_space()
NORMAL = [
    ("sep_conv_3x3", 0), ("dil_conv_5x5", 1), ("skip_connect", 0), ("sep_conv_5x5", 2),
    ("max_pool_3x3", 1), ("skip_connect", 0), ("sep_conv_3x3", 3), ("avg_pool_3x3", 1),
]  # fmt: skip
REDUCE = [
    ("max_pool_3x3", 0), ("max_pool_3x3", 1), ("skip_connect", 2), ("max_pool_3x3", 0),
    ("dil_conv_3x3", 2), ("skip_connect", 3), ("skip_connect", 2), ("sep_conv_5x5", 4),
]  # fmt: skip
PLAIN = {"normal": NORMAL, "normal_concat": [2, 3, 4, 5], "reduce": REDUCE, "reduce_concat": [2, 3, 4, 5]}


def call(normal=NORMAL, reduce=REDUCE, concat="range(2, 6)", name="Genotype", names=("normal", "reduce"), more=""):
    first, second = names
    suffix = (f"{first.removesuffix('_arch')}_concat", f"{second.removesuffix('_arch')}_concat")
    return f"{name}({first}={normal}, {suffix[0]}={concat}, {second}={reduce}, {suffix[1]}={concat}{more})"


def each(change):
    """The call with every edge written otherwise. change: (operation, source, place) -> edge."""
    cells = [[change(operation, source, e) for e, (operation, source) in enumerate(cell)] for cell in (NORMAL, REDUCE)]
    return call(*cells)


def by_node(cell):
    return [cell[start : start + 2] for start in range(0, 8, 2)]


ARRAY = "array([" + ", ".join(f"['{operation}', '{source}']" for operation, source in NORMAL) + "], dtype='<U12')"
LINES = textwrap.dedent("""\
    BEST = Genotype(
      # found in March
      normal = [
        {normal},  # two a node
      ],
      normal_concat = [2, 3, 4, 5],
      reduce = [{reduce}
      ], reduce_concat = [
          2, 3, 4, 5,
      ],
    )
    """)
LINES = LINES.format(normal=",\n    ".join(map(str, NORMAL)), reduce=",\n    ".join(map(str, REDUCE)))
JSON = json.dumps(PLAIN)
BARE = call()
FORMS = {
    "a bare call": BARE,
    "line breaks": BARE.replace(", ", ",\n  "),
    "an assignment": f"MY_CELL = {BARE}",
    "no spaces": BARE.replace(" ", ""),
    "a typed assignment": f"MY_CELL: Genotype = {BARE}",
    "two assignments": f"Q1 = genotype = {BARE}",
    "an attribute is assigned": f"self.genotype = {BARE}",
    "a line continued": f"X = \\\n  {BARE}",
    "in parentheses": f"X = (\n  {BARE}\n)",
    "a log line": f"2026-01-02 03:04:05,678 genotype = {BARE}",
    "another log line": f"05/06 08:36:01 PM Architecture = {BARE}\n05/06 08:36:01 PM param size = 0.349076MB",
    "a log with a bracket": f"[2026-01-02 03:04:05] (epoch 3) genotype: {BARE} [done]",
    "a line of a log that has a mark": f"### genotype {BARE}",
    "a trailing comment": f"{BARE}  # best of 4 seeds (97.5 %)",
    "a trailing semicolon": f"{BARE};",
    "over many lines": LINES,
    "indented": textwrap.indent(LINES, "    "),
    "in a comment": f"# OLD = {BARE}",
    "in a comment of many lines": "\n".join(f"# {line}" for line in LINES.replace("  # two a node", "").splitlines()),
    "a flag": f'python train.py --layer 4 --arch "{BARE}" --gpu 0',
    "in quotes": f'"{BARE}"',
    "escaped quotes": "'" + BARE.replace("'", "\\'") + "'",
    "double quotes": BARE.replace("'", '"'),
    "quotes of a word processor": BARE.replace("'", "’"),
    "Markdown": f"The cell:\n\n```python\ngenotype = {BARE}\n```\n\nIt has (only) 3 M parameters.",
    "printed": f"print({BARE})",
    "YAML": f'genotype: "{BARE}"\nlayers: 20',
    "an entry of a dictionary": f"CELLS = {{'mine': {BARE}}}",
    "an attribute of a module": f"X = genotypes.{BARE}",
    "an attribute of another module": f"gt.{BARE}",
    "after its class": f"class Genotype(NamedTuple):\n    normal: list\n\nX = {BARE}",
    "after its named tuple": f"Genotype = namedtuple('Genotype', 'normal normal_concat reduce')\nX = {BARE}",
    "beside a call that is code": f"X = {BARE}\ndef f():\n    return Genotype(normal=cell, normal_concat=concat)",
    "twice the same": f"{BARE}\n{call(concat=[2, 3, 4, 5])}",
    "positions": f"Genotype({NORMAL}, range(2, 6), {REDUCE}, range(2, 6))",
    "lists to concatenate": call(concat="[2, 3, 4, 5]"),
    "a tuple to concatenate": call(concat="(2, 3, 4, 5)"),
    "a list of a range": call(concat="list(range(2, 6))"),
    "a sum": call(concat="range(2, 2 + 4)"),
    "a range over two lines": call(concat="range(\n    2, 6)"),
    "an array to concatenate": call(concat="np.array([2, 3, 4, 5])"),
    "an array as printed": call(concat="array([2, 3, 4, 5], dtype=int64)"),
    "lists of lists": each(lambda operation, source, e: [operation, source]),
    "tuples of tuples": call(tuple(NORMAL), tuple(REDUCE)),
    "pairs for each node": call(by_node(NORMAL), by_node(REDUCE)),
    "numbers of NumPy": BARE.replace(", 0)", ", np.int64(0))").replace(", 1)", ", numpy.int32(1))"),
    "strings of NumPy": BARE.replace("('max_pool_3x3'", "(np.str_('max_pool_3x3')"),
    "an array of edges": call(normal=ARRAY),
    "weights": each(lambda operation, source, e: (operation, source, 0.1 + e / 100)),
    "weights for each node": call(*(by_node([(*edge, 0.5) for edge in cell]) for cell in (NORMAL, REDUCE))),
    "weights of NumPy": each(lambda operation, source, e: (operation, source, 0.5)).replace("0.5", "np.half(1)"),
    "weights of PyTorch": BARE.replace("', 0)", "', 0, tensor(0.1283, device='cuda:0'))").replace("', 1)", "', 1, 0.5)")
    .replace("', 2)", "', 2, 1e-3)").replace("', 3)", "', 3, nan)").replace("', 4)", "', 4, 0.5)"),
    "targets, sources": each(lambda operation, source, e: (operation, 2 + e // 2, source)),
    "sources, targets": each(lambda operation, source, e: (operation, source, 2 + e // 2)),
    "targets in any order": call(
        *([(edge[0], 2 + e // 2, edge[1]) for e, edge in enumerate(cell)][::-1] for cell in (NORMAL, REDUCE))
    ),
    "empty fields of a program's own": call(more=", normal_bottleneck='', reduce_bottleneck=None"),
    "other names": call(name="Genotype.from_arch", names=("normal_arch", "reduced_arch")),
    "reduction": call(by_node(NORMAL), by_node(REDUCE), names=("normal", "reduction")),
    "a dictionary": str(PLAIN),
    "a dictionary of a program": f"best = {PLAIN}\nprint(best)",
    "a dictionary of a log": f"epoch 3: {dict(space='darts', **PLAIN)} (best)",
    "a dictionary with a range": str(PLAIN).replace("[2, 3, 4, 5]", "list(range(2, 6))"),
    "a dictionary by names": f"X = dict(normal={NORMAL}, normal_concat=range(2, 6), reduce={REDUCE}, "
    "reduce_concat=range(2, 6))",
    "JSON": JSON,
    "JSON within an object": json.dumps({"genotype": PLAIN, "accuracy": 0.97}),
    "JSON by name": json.dumps({"accuracy": 0.97, "arch": BARE, "more": {"tries": [1, "DARTS"]}}),
    "JSON as text": json.dumps(BARE),
    "JSON of a named tuple": json.dumps(list(PLAIN.values())),
}  # fmt: skip
RIGHT = DARTS.from_genotype(PLAIN).tolist()


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_read(form):
    assert DARTS.from_genotype(FORMS[form]).tolist() == RIGHT


@pytest.mark.parametrize("suffix", ["py", "txt", "log"])
def test_every_form_is_read_from_a_file(tmp_path, suffix):
    path = tmp_path / f"cell.{suffix}"
    for form, text in FORMS.items():
        path.write_text(text, encoding="utf-8")
        assert DARTS.from_genotype(str(path)).tolist() == RIGHT, form
        assert DARTS.from_genotype(path).tolist() == RIGHT, form
        genotype, entry = read_genotype(str(path))
        assert entry.name == "darts"
        assert entry is CATALOG["darts"], form
        assert DARTS.from_genotype(genotype).tolist() == RIGHT, form


def test_values_are_read_as_they_are():
    Genotype = namedtuple("Genotype", list(PLAIN))
    array = np.array(NORMAL)
    for given in (
        Genotype(**PLAIN),
        {**PLAIN, "normal_concat": range(2, 6), "reduce_concat": np.arange(2, 6)},
        {**PLAIN, "normal": [(operation, np.int64(source)) for operation, source in NORMAL]},
        {**PLAIN, "normal": array, "reduce_concat": jnp.arange(2, 6)},
        {"genotype": PLAIN},
        list(PLAIN.values()),
    ):
        assert DARTS.from_genotype(given).tolist() == RIGHT
    assert spaces.enas_macro_space(3).from_genotype(np.array([0, 1, 0, 2, 1, 1])).tolist() == [0, 1, 0, 2, 1, 1]


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("PC_DARTS", "PC_DARTS_cifar"),
        ("PC-DARTS", "PC_DARTS_cifar"),
        ("pc darts image", "PC_DARTS_image"),
        ("PC-DARTS (ImageNet)", "PC_DARTS_image"),
        ("darts_v2", "DARTS_V2"),
        ("DARTS v.2", "DARTS_V2"),
        ("DARTS", "DARTS_V2"),
        ("DARTS (1st order)", None),
        ("darts-1st", "DARTS_V1"),
        ("P-DARTS", "PDARTS"),
        (" DrNAS-ImageNet\n", "DrNAS_imagenet"),
        ("DARTS_V3", None),
        ("", None),
    ],
)
def test_published_names_however_spelled(name, published):
    assert published_name(name) == published
    if published:
        assert DARTS.from_genotype(name).tolist() == DARTS.from_genotype(spaces.PUBLISHED[published]).tolist()


OTHER = call(normal=REDUCE)


def test_of_several_genotypes_one_is_chosen(tmp_path):
    program = tmp_path / "genotypes.py"
    program.write_text(f"# DEAD = {call(reduce=NORMAL)}\nONE = {BARE}\nTWO = {OTHER}\nBEST = TWO  # by validation\n")
    two = DARTS.from_genotype(OTHER).tolist()
    for wanted, right in (("ONE", RIGHT), ("TWO", two), ("BEST", two), ("1", RIGHT), ("2", two), ("-1", two)):
        assert DARTS.from_genotype(f"{program}:{wanted}").tolist() == right
        assert read_genotype(f"{program}:{wanted}")[1].name == "darts"
    dead = DARTS.from_genotype(f"{program}:DEAD")
    assert dead.tolist() == DARTS.from_genotype(call(reduce=NORMAL)).tolist()
    for given, message in (
        (str(program), r"genotypes\.py has 2 different genotypes \(ONE, TWO\): choose one .*genotypes\.py:ONE"),
        (f"{program}:THREE", r"has no genotype 'THREE'; there are DEAD, ONE, TWO, BEST"),
        (f"{program}:3", "has 2 genotypes, none of the number 3; they count from 1"),
        (f"{program}:0", "none of the number 0"),
        (program.read_text(), r"the text has 2 different genotypes \(ONE, TWO\): give one of them alone"),
    ):
        with pytest.raises(ValueError, match=message):
            DARTS.from_genotype(given)
    odd = tmp_path / "cells (1) [new].py"
    odd.write_text(program.read_text())
    assert DARTS.from_genotype(f"{odd}:TWO").tolist() == two
    log = tmp_path / "search.log"
    log.write_text("".join(f"epoch {e} genotype = {text}\n" for e, text in enumerate([BARE, OTHER] * 20)))
    assert DARTS.from_genotype(f"{log}:-1").tolist() == two
    with pytest.raises(ValueError, match=r"genotype, genotype, .* and 28 more\): .* the last is :-1") as error:
        DARTS.from_genotype(log)
    assert len(str(error.value)) < 600
    table = tmp_path / "cells.json"
    table.write_text(json.dumps({"a": BARE, "b": {**PLAIN, "reduce": NORMAL}, "note": "DARTS_V2 is better"}))
    assert DARTS.from_genotype(f"{table}:a").tolist() == RIGHT
    with pytest.raises(ValueError, match=r"\(a, b\)"):
        DARTS.from_genotype(table)


STRING = "|nor_conv_3x3~0|+|nor_conv_3x3~0|avg_pool_3x3~1|+|skip_connect~0|none~1|skip_connect~2|"


@pytest.mark.parametrize(
    "text",
    [
        STRING,
        STRING.replace("|", " | ").replace("+", " + "),
        STRING.replace("~", " ~ "),
        "|nor_conv_3x3~0|+|avg_pool_3x3~1|nor_conv_3x3~0|+|skip_connect~2|skip_connect~0|none~1|",
        "+".join(STRING.split("+")[::-1]),
        f"arch = '{STRING}'",
        f"[2026-01-02] Structure(4 nodes with {STRING}) 91.2 (valid)",
        f'"{STRING}"',
        json.dumps({"arch_str": STRING, "accuracy": 91.2}),
        "(('nor_conv_3x3', 0),), (('nor_conv_3x3', 0), ('avg_pool_3x3', 1)), "
        "(('skip_connect', 0), ('none', 1), ('skip_connect', 2))",
        "[[['nor_conv_3x3', 0]], [['nor_conv_3x3', 0], ['avg_pool_3x3', 1]], "
        "[['skip_connect', 0], ['none', 1], ['skip_connect', 2]]]",
    ],
)
def test_nasbench201_strings_in_other_forms(text, tmp_path):
    right = [3, 3, 4, 1, 0, 1]
    if text.startswith("("):
        text = f"({text})"
    assert NB201.from_genotype(text).tolist() == right
    path = tmp_path / "cell.txt"
    path.write_text(text)
    genotype, entry = read_genotype(str(path))
    assert entry is CATALOG["nasbench201"]
    assert NB201.from_genotype(genotype).tolist() == right


def test_a_tuple_is_no_genotype_of_darts():
    for text in ("(3, 3, 4, 1, 0, 1)", "('nor_conv_3x3', 0)", "nor_conv_3x3 (a tuple)"):
        with pytest.raises(ValueError, match=r"write (three joined by \+|\|op~0\|)") as error:
            NB201.from_genotype(text)
        assert "darts" not in str(error.value)


MICRO = "0 2 0 0 0 4 0 1 0 4 1 1 1 0 0 1 0 2 1 1 1 0 1 0 0 3 0 2 1 1 3 1 1 0 0 4 0 3 1 1"
MACRO = "0 3 0 0 1 0 2 0 0 1"


@pytest.mark.parametrize(
    "form",
    [
        lambda text: text.replace(" ", ", "),
        lambda text: f"[{text.replace(' ', ', ')}]",
        lambda text: f"[{text}]",
        lambda text: f"({text.replace(' ', ',')})",
        lambda text: f'fixed_arc="{text}"',
        lambda text: f"arc: {text}",
        lambda text: f"array([{text.replace(' ', ', ')}])",
        lambda text: text.replace(" ", "\n", 3).replace("\n", "]\n[", 1),
        lambda text: json.dumps([int(word) for word in text.split()]),
    ],
)
def test_enas_arcs_with_brackets_and_commas(form):
    micro, macro = spaces.enas_micro_space(), spaces.enas_macro_space(4)
    assert micro.notation(micro.from_genotype(form(MICRO))) == MICRO
    assert macro.notation(macro.from_genotype(form(MACRO))) == MACRO
    assert read_genotype(form(MICRO))[1].name == "enas_micro"
    assert read_genotype(form(MACRO))[1].name == "enas_macro"


@pytest.mark.parametrize(
    ("arc", "message"),
    [
        (MICRO.replace("2", "2.0", 1), "'2.0' is no integer; write 40 integers, two cells of 5 nodes, four for each"),
        (f"[{MICRO.replace('2', '-2', 1)}]", "'-2' is no integer|options 0 to 4, got -2"),
        (f"[{MICRO}, x]", "'x' is no number"),
        (f"[{MICRO}, 1]", "there are 41 integers; write 40, two cells of 5 nodes"),
        ([0.0] * 40, r"an arc is a list of integers|holds no genotype"),
        ({"arc": [0.5] * 40}, r"an arc is a list of integers, got \[0\.5"),
    ],
)
def test_arcs_that_are_none(arc, message):
    with pytest.raises(ValueError, match=message):
        spaces.enas_micro_space().from_genotype(arc)


def test_a_chain_in_a_file_says_its_space(tmp_path):
    path = tmp_path / "chain.txt"
    path.write_text("mbconv3_5x5 identity | shuffle_3x3 shuffle_xception\n")
    genotype, entry = read_genotype(str(path))
    assert entry.name == "chain"
    assert layers_of(genotype) == 4
    assert [layers_of(read_genotype(text)[0]) for text in (MACRO, MICRO, "DARTS_V2", STRING)] == [4, None, None, None]
    assert entry.space(Skeleton(2, 4, (8, 8, 3), 2)).to_genotype(
        entry.space(Skeleton(2, 4, (8, 8, 3), 2)).from_genotype(genotype)
    )["stages"] == [["mbconv3_5x5", "identity"], ["shuffle_3x3", "shuffle_xception"]]


def without(cell, *left_out):
    return [(edge[0], 2 + e // 2, edge[1]) for e, edge in enumerate(cell) if e not in left_out]


FIVE = ([*NORMAL, ("sep_conv_3x3", 5), ("skip_connect", 0)], [*REDUCE, ("sep_conv_3x3", 0), ("skip_connect", 1)])
LOOSE = [
    ("avg_pool_3x3", 0), ("max_pool_3x3", 1), ("sep_conv_3x3", 0), ("sep_conv_5x5", 2), ("sep_conv_3x3", 0),
    ("avg_pool_3x3", 3), ("sep_conv_3x3", 1), ("skip_connect", 1), ("skip_connect", 0), ("avg_pool_3x3", 1),
]  # fmt: skip
WIDER = {
    "an edge with none": (call([*NORMAL[:7], ("none", 1)]), "darts", 4),
    "one source twice": (call([*NORMAL[:3], ("sep_conv_5x5", 0), *NORMAL[4:]]), "darts", 4),
    "edges left out": (call(without(NORMAL, 3, 7), without(REDUCE)), "darts", 4),
    "a node left out": (call(without(NORMAL, 6, 7), without(REDUCE)), "darts", 4),
    "five nodes": (call(*FIVE, concat="range(2, 7)"), "darts", 5),
    "one node": (call(NORMAL[:2], REDUCE[:2], concat="[2]"), "darts", 1),
    "operations of the library": (call([("nor_conv_3x3", 0), *NORMAL[1:]]), "darts", 4),
    "all of it": (call([("nor_conv_1x1", 0), ("none", 0)], [("none", 0), ("none", 1)], concat="[2]"), "darts", 1),
    "loose ends": (call(LOOSE, LOOSE, concat="[4, 5, 6]"), "enas_micro", 5),
    "a wider cell of NAS-Bench-201": (STRING.replace("avg_pool", "max_pool"), "nasbench201", 4),
}


@pytest.mark.parametrize("case", WIDER)
def test_a_wider_genotype_has_a_space_of_its_own(case):
    text, name, nodes = WIDER[case]
    genotype = spaces.read_genotype(text)
    space = spaces.genotype_space(genotype)
    assert space.name == name
    arch = space.from_genotype(text)
    told = json.loads(json.dumps(space.to_genotype(arch)))
    if name != "nasbench201":
        assert len(told["normal"]) == 2 * nodes
    assert space.from_genotype(told).tolist() == arch.tolist()
    # What a run writes down is read back, by `jaxnas.load` too, to the same architecture.
    entry, skeleton = entry_of_genotype(genotype), Skeleton(2, 1, (8, 8, 3), 2)
    assert entry.name == name
    for again in (entry.space(skeleton), space_of_genotype(CATALOG[name], told, skeleton), spaces.genotype_space(told)):
        assert again.choices == space.choices or case == "loose ends"
        assert again.to_genotype(again.from_genotype(told)) == told
    costs = entry.network(arch, skeleton, space).costs
    assert costs == space.costs(arch, skeleton)
    if name == "darts":
        with pytest.raises(ValueError, match=r"normal|reduce") as error:
            DARTS.from_genotype(text)
        assert "\n" not in str(error.value)


def test_a_genotype_of_the_paper_keeps_the_space_of_its_entry():
    for text, space in ((BARE, DARTS), (STRING, NB201), (MICRO, spaces.enas_micro_space())):
        own = spaces.genotype_space(spaces.read_genotype(text))
        assert own.name == space.name
        assert own.choices == space.choices
        assert entry_of_genotype(spaces.read_genotype(text)) is CATALOG[space.name]
    mine = CATALOG["darts"]._replace(space=lambda skeleton: spaces.darts_space(3))
    genotype = {"normal": NORMAL[:6], "normal_concat": [2, 3, 4], "reduce": REDUCE[:6], "reduce_concat": [2, 3, 4]}
    assert len(space_of_genotype(mine, genotype, Skeleton(2, 1, (8, 8, 3), 2)).choices) == 18


def test_edges_that_are_left_out_are_none():
    space = spaces.genotype_space(spaces.read_genotype(WIDER["edges left out"][0]))
    assert space.to_genotype(space.from_genotype(WIDER["edges left out"][0]))["normal"] == [
        ["sep_conv_3x3", 0], ["dil_conv_5x5", 1], ["none", 0], ["skip_connect", 0],
        ["skip_connect", 0], ["max_pool_3x3", 1], ["none", 0], ["sep_conv_3x3", 3],
    ]  # fmt: skip
    with pytest.raises(ValueError, match="normal node 3 has 1 edges; a node of this space has two"):
        DARTS.from_genotype(call(by_node(NORMAL)[:1] + [NORMAL[:1]] + by_node(NORMAL)[2:], by_node(REDUCE)))


DEEP = "[" * 100_000


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (None, "a genotype is a text or the JSON form of its space, got None"),
        (5, "got 5"),
        (0.5, r"got 0\.5"),
        (b"DARTS_V2", "got b'DARTS_V2'"),
        ([], "holds no genotype"),
        ("[]", "not a genotype"),
        ("", "unknown genotype ''"),
        ("DARTS_V9", "unknown genotype 'DARTS_V9'; write .* DARTS_V2"),
        ("a\x1b]31mb", r"unknown genotype 'a\\x1b\]31mb'"),
        (call(concat="range(5, 6)"), r"normal_concat is \[5\]"),
        (call(concat="None"), "normal_concat must be a list, got None"),
        (call(normal=None), "normal must be a list, got None"),
        (call(normal=NORMAL[:7]), "normal has 7 edges; "),
        (f"Genotype(normal={NORMAL}, normal_concat=range(2, 6))", "the genotype has no 'reduce'"),
        (call([("sep_conv_7x7", 0), *NORMAL[1:]]), "unknown operation 'sep_conv_7x7'"),
        (call([(("x", {}), 0), *NORMAL[1:]]), "unknown operation"),
        (call([("conv", {"k": 3}, 0), *NORMAL[1:]]), r"an edge is \(operation, source\), got \['conv'"),
        (call([("sep_conv_3x3", 0.5), *NORMAL[1:]]), r"source 0\.5 of sep_conv_3x3 is out of range"),
        (call([("sep_conv_3x3", True), *NORMAL[1:]]), "source True of"),
        (call([("skip_connect", 1, 0)] * 8), "nodes of a cell, targets of its edges, count from 2"),
        (call([("skip_connect", 2, 0), ("skip_connect", 0, 2)] * 4), "all in one order"),
        (call([("skip_connect", 10**6, 0)] * 8), "count from 2 to 65"),
        (call(concat="__import__('os').getcwd()"), "normal_concat: cannot read"),
        (call(concat="[i for i in range(2, 6)]"), "normal_concat: cannot read"),
        (call(concat="range(2, 10**9)"), "normal_concat: cannot read"),
        (call(concat="[2] * 10**9"), "normal_concat: cannot read"),
        (call(more=", wrong=3"), "'wrong' twice or unasked"),
        (call(more=", **more"), "None twice or unasked"),
        (f"Genotype({NORMAL}, *rest)", "normal_concat: cannot read"),
        ("Genotype(", "never closed"),
        ("Genotype(normal=[('a', 0)] reduce=[])", "not a genotype: "),
        (f"Genotype(normal={DEEP}", "nested too deeply"),
        (DEEP + "]" * 100_000, "not a genotype"),
        ("(" * 5000, "not a genotype"),
        ('{"a":' * 50_000 + "1" + "}" * 50_000, "not a genotype"),
        (f"Genotype(normal=[{'1+' * 40_000}1])", "cannot"),
        (f"Genotype(normal=[{'-' * 90_000}1])", "cannot"),
        (f"Genotype(normal=[{'9' * 20_000}])", "not a genotype|normal"),
        (f"Genotype(normal=[{'1,' * LONGEST}])", "never closed in 100,000 characters"),
        ({**PLAIN, "normal": [[[[[]]]]]}, "normal"),
        ({**PLAIN, "normal": range(10**9)}, "no lists of 1000000000 entries"),
        ({**PLAIN, "normal_concat": np.zeros(10**6)}, "no arrays of 1000000 numbers"),
        ({**PLAIN, "space": ["darts"]}, r"the 'space' of a genotype is a name, got \['darts'\]"),
        ({**PLAIN, "space": "\x1b[2J"}, r"of the space '\\x1b\[2J', not of 'darts'"),
        (STRING, "this genotype is of the space 'nasbench201', not of 'darts'"),
        (MICRO, "of the space 'enas_micro', not of 'darts'"),
    ],
)
def test_what_is_no_genotype_gives_one_short_line(given, message):
    with pytest.raises(ValueError, match=message) as error:
        DARTS.from_genotype(given)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 700
    assert str(error.value).isprintable()


def test_deep_values_are_refused():
    deep = []
    for _ in range(100_000):
        deep = [deep]
    for given in ({**PLAIN, "normal": deep}, {"cell": deep}, deep, {"layers": deep}, {"stages": deep}):
        for space in (DARTS, NB201, spaces.enas_macro_space(3), spaces.enas_micro_space(), spaces.chain_space((1, 1))):
            with pytest.raises(ValueError, match="nested deeper"):
                space.from_genotype(given)
    assert len(shown(deep)) < 100


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", "[]", r"is no genotype in JSON: it must be an object, got list"),
        ("a.json", "[" * 100_000, "is not readable as JSON .nested too deeply|it is nested too deeply"),
        ("a.json", "{", "is not readable as JSON"),
        ("a.json", '{"a": 1}', "holds no genotype"),
        ("a.json", "null", "it must be an object, got NoneType"),
        ("a.py", "import os\n", "holds no genotype"),
        ("a.log", "Genotype(" * 20_000, "never closed"),
        ("a.txt", "\x00\xff" * 100, "holds no genotype"),
        ("a.py", "X = Genotype(normal=cell, normal_concat=c)", "a.py: normal: cannot read 'cell'"),
    ],
)
def test_a_file_without_a_genotype_gives_one_line(tmp_path, name, content, message):
    (tmp_path / name).write_text(content, encoding="latin-1")
    for read in (DARTS.from_genotype, spaces.read_genotype, lambda path: read_genotype(str(path))):
        with pytest.raises(ValueError, match=message) as error:
            read(tmp_path / name)
        assert "\n" not in str(error.value)


def test_files_that_are_not_there_or_too_large(tmp_path):
    with pytest.raises(OSError, match=r"there is no file .*absent\.py: give the folder of a run"):
        DARTS.from_genotype(f"{tmp_path}/absent.py")
    with pytest.raises(OSError, match=r"there is no file a\?b\.py") as error:
        read_genotype("a\x1bb.py:X")
    assert str(error.value).isprintable()
    with pytest.raises(OSError, match="there is no file"):
        read_genotype(str(tmp_path))
    large = tmp_path / "large.log"
    with open(large, "wb") as file:
        file.truncate(1 << 30)
    with pytest.raises(ValueError, match="has 1073741824 bytes; a file of genotypes has at most"):
        DARTS.from_genotype(large)


@pytest.mark.parametrize(
    ("given", "space", "message"),
    [
        (BARE, "nasbench201", "the genotype is one of 'darts' or 'enas_micro', not of --space nasbench201"),
        (STRING, "darts", "the genotype is one of 'nasbench201', not of --space darts: leave out --space"),
        (call(concat="[3, 4]"), "", r"normal_concat is \[3, 4\]; cells of DARTS concatenate all nodes"),
        (
            call([("conv_7x1_1x7", 0), ("zero", 1), *NORMAL[2:]]),
            "",
            "operation 'conv_7x1_1x7', 'zero'; the library has",
        ),
        (call(NORMAL[:6]), "", "normal has 6 edges; a cell of 4 nodes has 8"),
        ('{"space": "mine", "a": 1}', "", "say its 'space', one of darts, .* got 'mine'"),
        (" ".join("0" * 120), "", "may be of the space enas_micro or enas_macro: say which"),
        (" ".join("0" * 7), "", "no space of the library has this genotype"),
    ],
)
def test_what_no_program_can_take_is_told_in_one_line(given, space, message):
    with pytest.raises(ValueError, match=message) as error:
        read_genotype(given, space)
    assert "\n" not in str(error.value)


def test_a_program_leaves_to_the_space_what_that_alone_reads():
    assert read_genotype("mbconv3_3x3 identity", "chain") == ("mbconv3_3x3 identity", CATALOG["chain"])
    genotype, entry = read_genotype(BARE, "darts")
    assert genotype["space"] == entry.name == "darts"


def test_a_product_reads_its_genotypes_and_nothing_else():
    space = spaces.product_space("mine", {"width": [8, 16], "depth": [1, 2]})
    assert space.from_genotype('{"space": "mine", "width": 16, "depth": 2}').tolist() == [1, 1]
    for given, message in (
        (None, "got None"),
        ([1, 0], r"got \[1, 0\]"),
        ({"width": [8], "depth": 1}, "choice 'width' is"),
        ({"space": "other"}, "of the space 'other', not of 'mine'"),
        ("width=8 depth=1 typo=3", "there is no choice 'typo'; there are depth, width"),
        ({"width": 8, "depth": 1, "typo": 3}, "there is no choice 'typo'"),
        ("width=8 width=16 depth=1", "has choice 'width' twice: 8 and 16"),
    ):
        with pytest.raises(ValueError, match=message):
            space.from_genotype(given)


def test_architectures_of_another_length_or_of_floats_are_refused():
    table = make_table("one", NB201.choices, np.zeros((1, 6), int), {"valid": [0.5]})
    for arch in ([0] * 5, [0] * 7, np.zeros(6), jnp.full(6, 0.5), [0.0] * 6, [], 0):
        for ask in (
            lambda a: table.query(a, "valid"),
            table.index,
            NB201.to_genotype,
            NB201.notation,
            NB201.canonical,
            NB201.one_hot,
            table.moves.neighbors,
        ):
            with pytest.raises(ValueError, match="choices, so its architectures are integers"):
                ask(arch)
    assert table.query(np.zeros(6, int), "valid") == 0.5


def test_two_choices_of_one_name_are_refused():
    choices = (Choice("a", ("x", "y")), Choice("b", ("x",)), Choice("a", ("x", "y")))
    with pytest.raises(ValueError, match="two choices have the name 'a'; give each its own"):
        make_table("twice", choices, np.zeros((1, 3), int), {"valid": [0.5]})


def test_the_network_of_a_wider_genotype_is_built():
    space = spaces.genotype_space(spaces.read_genotype(WIDER["all of it"][0]))
    skeleton = Skeleton(2, 1, (8, 8, 3), 2)
    network = darts_network(space.from_genotype(WIDER["all of it"][0]), skeleton, space)
    assert network.costs["params"] > 0
