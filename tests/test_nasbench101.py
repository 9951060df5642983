"""NAS-Bench-101's space against brute force, its release read without TensorFlow, and NATS-Bench's size space."""

import base64
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnas import benchmarks, spaces
from jaxnas.benchmarks.nasbench101 import nasbench101_message, nasbench101_runs
from jaxnas.data.tfrecord import write_records
from jaxnas.spaces.nasbench101 import nasbench101_entries
from jaxnas.testing import check_space

OPS = spaces.NASBENCH101_OPERATIONS


def graph(count, edges, ops):
    """Matrix and operations of a graph of so many vertices."""
    matrix = np.zeros((count, count), int)
    for low, high in edges:
        matrix[low, high] = 1
    return matrix, ["input", *ops, "output"]


def simplest(matrix, ops):
    """Brute force on lists: of the vertices on a way to the output the least of all orders; None without a way."""
    count = len(ops)
    ways = [[0]]
    kept = set()
    while ways:
        way = ways.pop()
        if way[-1] == count - 1:
            kept |= set(way)
        ways += [[*way, after] for after in range(count) if matrix[way[-1]][after]]
    if not kept:
        return None
    kept = sorted(kept)
    forms = []
    for order in itertools.permutations(kept[1:-1]):
        names = [kept[0], *order, kept[-1]]
        forms.append(([ops[v] for v in names], [[int(matrix[a][b]) for b in names] for a in names]))
    return str(min(forms))


def test_the_canonical_form_is_that_of_brute_force():
    """Every graph of up to four vertices, and of five all edges with one labeling: equal form, same graph."""
    cases = []
    for count in (2, 3, 4, 5):
        pairs = list(itertools.combinations(range(count), 2))
        labels = [OPS[:3]] if count == 5 else itertools.product(OPS, repeat=count - 2)
        for ops in labels:
            for there in itertools.product((0, 1), repeat=len(pairs)):
                if sum(there) <= spaces.NASBENCH101_EDGES:
                    cases.append(graph(count, [p for p, on in zip(pairs, there, strict=True) if on], ops))
    expected = [simplest(matrix, ops) for matrix, ops in cases]
    known = [(case, key) for case, key in zip(cases, expected, strict=True) if key is not None]
    archs = jnp.asarray([nasbench101_entries(matrix.tolist(), ops) for (matrix, ops), _ in known])
    forms = [
        tuple(arch) for arch in np.asarray(jax.jit(jax.vmap(spaces.nasbench101_space().canonical))(archs)).tolist()
    ]
    assert np.asarray(jax.jit(jax.vmap(spaces.nasbench101_valid))(archs)).all()
    pairs = set(zip(forms, [key for _, key in known], strict=True))
    assert len(pairs) == len(set(forms)) == len({key for _, key in known}) > 100
    for (matrix, ops), key in zip(cases, expected, strict=True):
        if key is None:
            with pytest.raises(ValueError, match="no way leads from the input"):
                nasbench101_entries(matrix.tolist(), ops)
            break


def test_vertices_may_be_renamed():
    """Cells of seven vertices in every order that keeps edges forward are one."""
    matrix, ops = graph(7, [(0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 5), (5, 6), (0, 6)], [*OPS, OPS[1], OPS[0]])
    orders = []
    for order in itertools.permutations(range(1, 6)):
        names = [0, *order, 6]
        moved = matrix[np.ix_(names, names)]
        if not np.tril(moved).any():
            orders.append(nasbench101_entries(moved.tolist(), [ops[v] for v in names]))
    assert len(orders) > 3
    forms = np.asarray(jax.jit(jax.vmap(spaces.nasbench101_space().canonical))(jnp.asarray(orders)))
    assert (forms == forms[0]).all()


def test_laws_of_both_spaces():
    space = spaces.nasbench101_space()
    check_space(space, draws=128)
    check_space(spaces.natsbench_size_space(), draws=128)
    sampled = jax.jit(jax.vmap(space.sample))(jax.random.split(jax.random.key(0), 300))
    valid = jax.jit(jax.vmap(spaces.nasbench101_valid))
    assert valid(sampled).all()
    assert valid(jax.jit(jax.vmap(space.mutate))(jax.random.split(jax.random.key(1), 300), sampled)).all()


@pytest.mark.parametrize(
    "text",
    [
        "[[0, 1, 1], [0, 0, 1], [0, 0, 0]] ['input', 'conv3x3-bn-relu', 'output']",
        "ModelSpec(matrix=[[0,1,1],[0,0,1],[0,0,0]], ops=[INPUT, CONV3X3, OUTPUT])",
        '{"module_adjacency": [[0,1,1],[0,0,1],[0,0,0]], "module_operations": ["input", "conv3x3-bn-relu", "output"]}',
        "011001000 input,conv3x3-bn-relu,output",
        "([[0, 1, 0, 1], [0, 0, 0, 1], [0, 0, 0, 1], [0, 0, 0, 0]], [-1, 0, 2, -2])",
    ],
)
def test_cells_as_people_write_them(text):
    arch = spaces.nasbench101_space().from_genotype(text)
    assert spaces.nasbench101_space().to_genotype(arch)["matrix"] == [[0, 1, 1], [0, 0, 1], [0, 0, 0]]


@pytest.mark.parametrize(
    ("matrix", "ops", "message"),
    [
        ([[0, 1], [1, 0]], ["input", "output"], "an edge that leads back"),
        ([[0, 2], [0, 0]], ["input", "output"], "entries 0 and 1 alone"),
        ([[0, 1], [0, 0]], ["output", "input"], "the first vertex is 'input'"),
        ([[0, 1, 0], [0, 0, 1], [0, 0, 0]], ["input", "conv5x5", "output"], "vertex 1: unknown operation 'conv5x5'"),
        (np.triu(np.ones((6, 6), int), 1).tolist(), ["input", *[OPS[0]] * 4, "output"], "at most 9 edges, got 15"),
        ([[0, 1]], ["input", "output"], "must have 2 rows of 2 numbers"),
        (None, ["input", "output"], "must have 2 rows"),
        ([[0] * 8] * 8, ["input", *[OPS[0]] * 6, "output"], "2 to 7 vertices"),
    ],
)
def test_what_is_no_cell_says_why(matrix, ops, message):
    with pytest.raises(ValueError, match=message):
        spaces.nasbench101_space().from_genotype({"matrix": matrix, "ops": ops})


def records():
    """Two networks, one of them in two orders: three runs of each after 4 and 108 epochs."""
    found = []
    for matrix, ops, base in (
        ("0110001100010000", "input,conv3x3-bn-relu,maxpool3x3,output", 0.9),
        ("0110000100010000", "input,conv1x1-bn-relu,conv3x3-bn-relu,output", 0.8),
        ("0110000100010000", "input,conv3x3-bn-relu,conv1x1-bn-relu,output", 0.8),
    ):
        for epochs in (4, 108):
            for run in range(3 if base == 0.9 else 1):
                valid = base - 0.1 * (epochs == 4) + 0.01 * run
                parts = [
                    (0, 0, 0.1, 0.1, 0.1),
                    (epochs / 2, epochs, 0.5, 0.5, 0.5),
                    (epochs, 2 * epochs + run, 1, valid, valid - 0.01),
                ]
                found.append(["hash", epochs, matrix, ops, nasbench101_message(8_555_530, parts)])
    return found


def test_the_release_is_a_table(tmp_path):
    found = []
    for form in ("jsonl", "json", "tfrecord"):
        path = tmp_path / f"nasbench.{form}"
        if form == "tfrecord":
            write_records(path, [json.dumps(record).encode() for record in records()])
        else:
            path.write_text(json.dumps(records()) if form == "json" else "\n".join(map(json.dumps, records())))
        found.append([(*run[1:], run.entries.tolist()) for run in nasbench101_runs(path)])
    assert found[0] == found[1] == found[2]
    table, usual = benchmarks.named_table(path)
    assert usual == {"search": "valid", "report": "test", "time": "seconds"}
    assert table.fidelities["valid"] == ("4", "108")
    assert len(table.archs) == 2  # the second and the third are one graph
    metrics = ("valid", "valid@4", "valid_std", "valid_run3", "test_run1", "seconds", "params")
    values = jax.jit(lambda arch: [table.query(arch, name) for name in metrics])
    arch = table.space.from_genotype("0110001100010000 input,conv3x3-bn-relu,maxpool3x3,output")
    np.testing.assert_allclose(values(arch), [91, 81, 1, 92, 89, 217, 8_555_530], rtol=1e-5)
    twin = table.space.from_genotype("0110000100010000 input,conv3x3-bn-relu,conv1x1-bn-relu,output")
    np.testing.assert_allclose(values(twin), [80, 70, 0, np.nan, 79, 216, 8_555_530], rtol=1e-5)


def test_a_damaged_release_says_which_record(tmp_path):
    path = tmp_path / "nasbench.jsonl"
    good = records()
    for change, message in (
        (["hash", 4, good[0][2], good[0][3], "no base64"], "record 1: the metrics are no message"),
        (["hash", 4, good[0][2], good[0][3], base64.b64encode(b"\x0a\xff\x01").decode()], "record 1: the metrics are"),
        (["hash", 4, "011", good[0][3], good[0][4]], "record 1: 'matrix' must have 4 rows"),
        (["hash", "4", good[0][2], good[0][3], good[0][4]], "record 1: epochs are an integer"),
        ({"epochs": 4}, "record 1: a record is"),
    ):
        path.write_text("\n".join(map(json.dumps, [good[0], change])))
        with pytest.raises(ValueError, match=message):
            list(nasbench101_runs(path))
