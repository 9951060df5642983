"""Pictures: nothing overlaps, nothing is cut off, no line runs through a box, whatever the cell."""

import itertools
import struct

import jax
import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.patches import FancyBboxPatch, PathPatch

from jaxnas import draw
from jaxnas.spaces import (
    CHAIN_BLOCKS,
    DARTS_OPERATIONS,
    NASBENCH201_OPERATIONS,
    PUBLISHED,
    chain_space,
    darts_space,
    enas_macro_space,
    nasbench201_space,
)

CONCAT = {"normal_concat": [2, 3, 4, 5], "reduce_concat": [2, 3, 4, 5]}
CHAIN = [["dil_conv_5x5", 0], ["dil_conv_5x5", 1], ["sep_conv_5x5", 0], ["skip_connect", 2]] + [
    ["max_pool_3x3", 0], ["avg_pool_3x3", 3], ["max_pool_3x3", 0], ["dil_conv_3x3", 4]
]  # fmt: skip
FLAT = [["dil_conv_5x5", 0], ["sep_conv_3x3", 1]] * 4
# Names that the library does not have, and one input that nothing reads.
STRANGE = [["a_very_long_name_of_an_operation_9x9", 0], ["b", 2], ["b", 2], ["none", 3]]


def some_genotypes():
    space, table, chain = darts_space(), nasbench201_space(), chain_space((4, 2, 3))
    return [
        *PUBLISHED.values(),
        *(space.to_genotype(arch) for arch in jax.vmap(space.sample)(jax.random.split(jax.random.key(0), 30))),
        *(table.to_genotype(arch) for arch in jax.vmap(table.sample)(jax.random.split(jax.random.key(1), 5))),
        *(chain.to_genotype(arch) for arch in jax.vmap(chain.sample)(jax.random.split(jax.random.key(2), 5))),
        {"normal": CHAIN, "reduce": FLAT, **CONCAT},
        {"normal": [["b", 0], ["b", 1]], "reduce": [["b", 1], ["b", 0], *STRANGE[:2]],
         "normal_concat": [2], "reduce_concat": [3]},
    ]  # fmt: skip


def boxes(figure, gid):
    """The extents [n, 4], (left, bottom, right, top) in pixels, of the texts with that gid."""
    return np.array(
        [text.get_window_extent().extents for text in figure.findobj(mpl.text.Text) if text.get_gid() == gid]
    )


def overlaps(a, b):
    return min(a[2], b[2]) - max(a[0], b[0]) > 0 and min(a[3], b[3]) - max(a[1], b[1]) > 0


@pytest.mark.parametrize("chunk", range(4))
def test_texts_and_boxes_of_any_cell_are_apart_and_inside_and_no_line_runs_through_them(chunk):
    for genotype in some_genotypes()[chunk::4]:
        figure = draw.genotype_figure(genotype, {"params": 3349342, "macs": 12})
        texts = np.concatenate([boxes(figure, gid) for gid in ("operation", "node", "title")])
        width, height = figure.canvas.get_width_height()
        assert (texts >= 2).all()
        assert (texts <= (width - 2, height - 2) * 2).all()
        patches = [patch.get_window_extent().extents for patch in figure.findobj(FancyBboxPatch)]
        for a, b in itertools.combinations(patches, 2):
            assert not overlaps(a, b)
        for a, b in itertools.combinations(texts, 2):
            assert not overlaps(a, b)
        operations = boxes(figure, "operation")
        inside = np.concatenate([operations, boxes(figure, "node")])
        assert len(inside) == len(patches)
        for text in inside:  # Each text is in a box of its own.
            assert sum(overlaps(text, patch) for patch in patches) == 1
            assert any(
                (text[:2] >= np.add(patch[:2], 2)).all() and (text[2:] <= np.add(patch[2:], -2)).all()
                for patch in patches
            )
        lines = [patch for patch in figure.findobj(PathPatch) if patch.get_gid() == "line"]
        for line in lines:
            path = line.get_transform().transform_path(line.get_path()).interpolated(1)
            points = path.to_polygons(closed_only=False)[0]
            crossed = [
                patch
                for patch in patches
                if ((points > np.add(patch[:2], 2)) & (points < np.add(patch[2:], -2))).all(axis=1).any()
            ]
            # A line with an operation runs under the box of that operation, and under no other.
            assert len(crossed) <= 1
            label = [patch for patch in crossed if any(overlaps(text, patch) for text in operations)]
            assert len(label) == len(crossed)
        edges = sum(len(genotype[kind]) for kind in ("normal", "reduce", "cell") if kind in genotype)
        edges += sum(map(len, genotype.get("stages", [])))
        joined = sum(len(genotype.get(f"{kind}_concat", [])) for kind in ("normal", "reduce"))
        assert len(operations) == edges
        assert len(lines) == edges + joined


def test_nodes_stand_from_left_to_right_by_their_longest_path():
    figure = draw.genotype_figure({"normal": CHAIN, "reduce": FLAT, **CONCAT})
    texts = [text for text in figure.findobj(mpl.text.Text) if text.get_gid() == "node"]
    x = [text.get_position()[0] for text in texts]
    chain, flat = x[:7], x[7:]
    assert chain[0] == chain[1]
    assert all(a < b for a, b in itertools.pairwise(chain[1:]))
    assert flat[0] == flat[1] < flat[2] == flat[3] == flat[4] == flat[5] < flat[6]
    first, second = texts[0].get_position()[1], texts[1].get_position()[1]
    assert first < second  # c_{k-2} above c_{k-1}.


def test_lines_between_boxes_of_one_edge_meet_the_right_nodes():
    # In the flat cell, input 0 feeds every dil_conv and each node is fed by one dil_conv and one sep_conv.
    layout = draw.place(draw.cells({"normal": FLAT, "reduce": FLAT, **CONCAT})[0], WIDTHS, 0.25)
    named = {box.name: box for box in layout.boxes if not box.is_operation}
    for (operation, points), target in zip(layout.lines[:8], [0, 0, 1, 1, 2, 2, 3, 3], strict=True):
        source = named["$c_{k-2}$" if operation == "dil_conv_5x5" else "$c_{k-1}$"]
        for node, point, side in ((source, points[0], 1), (named[str(target)], points[-1], -1)):
            assert point[0] == pytest.approx(node.x + side * node.width / 2)
            assert abs(point[1] - node.y) < node.height / 2


WIDTHS = dict.fromkeys(["dil_conv_5x5", "sep_conv_3x3", "$c_{k-2}$", "$c_{k-1}$", "$c_k$", "0", "1", "2", "3"], 0.5)


def test_each_operation_has_a_color_of_its_own():
    for operations in (DARTS_OPERATIONS, NASBENCH201_OPERATIONS, CHAIN_BLOCKS, ("new_a", "new_b", "none")):
        assert len(set(draw.operation_colors(operations).values())) == len(operations)


def test_dot_has_each_edge_of_each_cell():
    text = draw.to_dot(PUBLISHED["DARTS_V2"])
    for cell, kind in enumerate(("normal", "reduce")):
        for index, (operation, source) in enumerate(PUBLISHED["DARTS_V2"][kind]):
            assert f'"{cell}_{source}" -> "{cell}_{2 + index // 2}" [label="{operation}"' in text
        for node in range(2, 6):
            assert f'"{cell}_{node}" -> "{cell}_6";' in text
    assert text.count("->") == 2 * (8 + 4)
    assert text.count("{") == text.count("}")
    table = nasbench201_space()
    cell = "|nor_conv_1x1~0|+|none~0|skip_connect~1|+|none~0|none~1|nor_conv_3x3~2|"
    text = draw.to_dot(table.to_genotype(table.from_genotype(cell)))
    for edge in ('"0_0" -> "0_1" [label="nor_conv_1x1"', '"0_1" -> "0_2" [label="skip_connect"',
                 '"0_2" -> "0_3" [label="nor_conv_3x3"', '"0_1" -> "0_3" [label="none"'):  # fmt: skip
        assert edge in text


@pytest.mark.parametrize(
    ("genotype", "message"),
    [
        ({"normal": CHAIN}, "normal_concat"),
        ({"cell": [["none", 0]]}, "'cell'"),
        ({"normal": [["skip_connect", 2], ["skip_connect", 0]], "reduce": [], **CONCAT}, "forward"),
    ],
)  # fmt: skip
def test_what_is_no_genotype_is_refused(genotype, message):
    with pytest.raises(ValueError, match=message):
        draw.genotype_figure(genotype)


def png_size(path):
    content = path.read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", content[16:24])


def test_files_have_the_size_of_their_figure_and_leave_nothing_else(tmp_path):
    def of_the_user():  # To read the setting "backend" would choose one.
        return mpl.get_backend(auto_select=False), {
            name: mpl.rcParams[name] for name in mpl.rcParams if name != "backend"
        }

    before = of_the_user()
    draw.draw_genotype(PUBLISHED["DARTS_V1"], tmp_path / "a.png")
    width, height = draw.genotype_figure(PUBLISHED["DARTS_V1"]).get_size_inches() * draw.DPI
    assert png_size(tmp_path / "a.png") == (round(width), round(height))
    drawn = (tmp_path / "a.svg").read_bytes()
    draw.draw_genotype(PUBLISHED["DARTS_V1"], tmp_path / "a.png")  # Replaces it.
    assert (tmp_path / "a.svg").read_bytes() == drawn  # the same picture, the same file
    with pytest.raises(ValueError, match=r"end its name in \.png"):
        draw.draw_genotype(PUBLISHED["DARTS_V1"], tmp_path / "a.pdf")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "a.svg"]
    assert of_the_user() == before


def test_weights_over_time_have_a_panel_for_each_edge_with_its_own_values(tmp_path):
    history = {kind: np.random.default_rng(0).dirichlet(np.ones(8), (5, 14)) for kind in ("normal", "reduce")}
    steps = [0, 10, 20, 30, 40]
    figure = draw.alpha_figure(history, DARTS_OPERATIONS, steps)
    assert len(figure.axes) == 28
    names = [axes.get_title() for axes in figure.axes[:14]]
    assert names[:3] == ["$c_{k-2}$ → 0", "$c_{k-1}$ → 0", "$c_{k-2}$ → 1"]
    assert names[-1] == "2 → 3"
    for kind, panels in (("normal", figure.axes[:14]), ("reduce", figure.axes[14:])):
        for slot, axes in enumerate(panels):
            for o, line in enumerate(axes.lines):
                np.testing.assert_allclose(line.get_xydata(), np.stack([steps, history[kind][:, slot, o]], axis=1))
    frames = [axes.get_window_extent().extents for axes in figure.axes]
    assert not any(overlaps(a, b) for a, b in itertools.combinations(frames, 2))
    draw.draw_alpha({"cell": np.full((1, 6, 5), 0.2)}, NASBENCH201_OPERATIONS, [0], tmp_path / "alpha.png")
    assert min(png_size(tmp_path / "alpha.png")) > 300


@pytest.mark.parametrize(
    ("history", "message"),
    [({}, "empty"), ({"cell": np.zeros((2, 6, 4))}, "O = 5"), ({"cell": np.zeros((2, 7, 5))}, "7 slots"),
     ({"cell": np.zeros((3, 6, 5))}, "T = 2")],
)  # fmt: skip
def test_a_history_of_another_shape_is_refused(history, message):
    with pytest.raises(ValueError, match=message):
        draw.alpha_figure(history, NASBENCH201_OPERATIONS, [0, 1])


def test_curves_show_each_stage_and_put_a_loss_that_falls_far_on_a_log_scale(tmp_path):
    lines = [
        {"stage": "search", "phase": "search", "step": n, "train_loss": 2.0 - n / 1000, "train_accuracy": n / 1000,
         "gradient_norm": 1.0, "note": "text"}
        for n in range(1, 1001)
    ]  # fmt: skip
    lines += [{"stage": "train", "phase": "train", "step": n, "loss": 2.0**-n, "accuracy": 0.5} for n in range(1, 11)]
    lines.append({"stage": "train", "phase": "epoch", "step": 10, "valid_accuracy": 0.25, "valid_loss": None})
    figure = draw.curves_figure(lines)
    panels = {axes.get_title(loc="left"): axes for axes in figure.axes}
    assert list(panels) == ["search: loss", "search: accuracy", "train: loss", "train: accuracy"]
    assert [panels[name].get_yscale() for name in ("search: loss", "train: loss")] == ["linear", "log"]
    (means,) = (line.get_xydata() for line in panels["search: loss"].lines)
    assert means.shape == (200, 2)
    np.testing.assert_allclose(means[:, 1], 2.0 - means[:, 0] / 1000)  # The mean of a part of a straight line is on it.
    labels = {line.get_label(): line.get_xydata().tolist() for line in panels["train: accuracy"].lines}
    assert labels["validation"] == [[10.0, 0.25]]
    assert len(labels["training"]) == 10
    draw.draw_curves(lines, tmp_path / "curves.png")
    assert png_size(tmp_path / "curves.png") == tuple(np.round(figure.get_size_inches() * draw.DPI))


def test_curves_without_a_loss_are_refused():
    with pytest.raises(ValueError, match="no loss"):
        draw.curves_figure([{"stage": "search", "phase": "search", "step": 1, "entropy": 2.0}])


def test_a_comparison_ranks_the_networks_and_shows_interval_and_size():
    networks = {
        "hand-designed": {"test_accuracy": 0.9, "params": 61706, "macs": 416520, "interval": [0.88, 0.92]},
        "found": {"test_accuracy": 0.95, "params": 3349342, "macs": 999, "test_interval": [0.93, 0.96]},
        "random 0": {"test_accuracy": 0.92, "params": 1000000, "macs": 5 * 10**9},
    }
    figure = draw.comparison_figure(networks)
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["found", "random 0", "hand-designed"]
    drawn = [line.get_xdata().tolist() for line in axes.lines]
    assert drawn == [[0.93, 0.96], [0.95], [0.92], [0.88, 0.92], [0.9]]
    assert [text.get_text() for text in axes.texts] == [
        "3.35 M params, 999 MACs", "1.00 M params, 5.00 G MACs", "61.7 k params, 417 k MACs"
    ]  # fmt: skip
    figure.canvas.draw()  # Puts the labels where they belong.
    width, height = figure.canvas.get_width_height()
    for text in [*axes.texts, *axes.get_yticklabels(), axes.xaxis.label]:
        left, bottom, right, top = text.get_window_extent().extents
        assert 0 <= left < right <= width
        assert 0 <= bottom < top <= height
    with pytest.raises(ValueError, match="no network"):
        draw.comparison_figure({})


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0"),
        (999, "999"),
        (1000, "1.00 k"),
        (9996, "10.0 k"),
        (99960, "100 k"),
        (999_600, "1.00 M"),
        (123_456_789, "123 M"),
    ],
)
def test_counts_have_three_figures(count, text):
    assert draw.figures(count) == text


def test_layers_stand_in_a_column_with_an_arc_for_each_skip(tmp_path):
    space = enas_macro_space(6)
    for arch in jax.vmap(space.sample)(jax.random.split(jax.random.key(0), 3)):
        genotype = space.to_genotype(arch)
        figure = draw.genotype_figure(genotype, {"params": 3349342, "macs": 12})
        texts = np.concatenate([boxes(figure, gid) for gid in ("operation", "node", "title")])
        width, height = figure.canvas.get_width_height()
        assert (texts >= 2).all()
        assert (texts <= (width - 2, height - 2) * 2).all()
        assert not any(overlaps(a, b) for a, b in itertools.combinations(texts, 2))
        assert [text.get_text() for text in figure.findobj(mpl.text.Text) if text.get_gid() == "operation"] == [
            operation.replace("_", " ").replace("x", "×").replace("ma×", "max") for operation, _ in genotype["layers"]
        ]
        arrows = [patch for patch in figure.findobj(mpl.patches.FancyArrowPatch) if patch.get_gid() == "line"]
        assert len(arrows) == 6 + sum(len(states) for _, states in genotype["layers"])
        for arrow in arrows:
            left, bottom, right, top = arrow.get_window_extent().extents
            assert 0 <= left <= right <= width
            assert 0 <= bottom <= top <= height
        assert draw.to_dot(genotype).count("->") == len(arrows)
