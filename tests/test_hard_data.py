"""Images and folders as people have them: large headers, other formats, single images; prediction past all of that."""

import csv
import struct
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import jaxnas
from experiments import predict
from jaxnas import command, data
from jaxnas.base import Skeleton
from jaxnas.data.images import MOST_PIXELS, check_memory
from jaxnas.memory import machine_memory
from jaxnas.networks import nasbench201_network
from jaxnas.saved import save_network
from jaxnas.spaces import nasbench201_space


def png_of(width, height):
    """A file of some bytes whose header says how large its image is."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(9))) + chunk(b"IEND", b"")


def test_an_image_that_would_unpack_to_gigabytes_is_refused_by_its_header():
    for side in (9000, 1 << 20, (1 << 31) - 1):
        with pytest.raises(data.DataError, match=rf"has more than the {MOST_PIXELS:,} pixels that are read"):
            data.read_image(png_of(side, side), data.ImageForm(3, (8, 8)))


def test_a_data_set_larger_than_memory_is_refused_before_it_is_read():
    check_memory(1 << 20, "these")
    most = machine_memory()
    if most is None:
        pytest.skip("this system does not tell how much memory it has")
    with pytest.raises(data.DataError, match=r"these need .* GB, and there are .*: give a smaller --size"):
        check_memory(most + 1, "these")


def test_what_is_another_format_under_the_name_of_an_image_is_not_opened(tmp_path):
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n")
    with pytest.raises(data.DataError, match=r"a\.png cannot be decoded"):
        data.read_image(tmp_path / "a.png", data.ImageForm(3))


def picture(path, seed=0, mode="RGB", size=(12, 10)):
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(values).convert(mode).save(path)


def test_a_class_with_one_image_is_for_training_and_the_first_line_says_so(tmp_path):
    for name, count in (("ant", 8), ("bee", 8), ("\x1b[31mcat", 1)):
        for i in range(count):
            picture(tmp_path / name / f"{i}.png", i)
    dataset = data.load_dataset(str(tmp_path))
    there = {part: np.bincount(examples.targets, minlength=3) for part, examples in dataset.parts().items()}
    lone = dataset.class_names.index("\x1b[31mcat")
    assert there["train"][lone] == 1
    assert there["test"][lone] == 0
    assert dataset.told().endswith(r"; no image of \x1b[31mcat in test")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a run with a network of three classes that was never trained."""
    root = tmp_path_factory.mktemp("trained")
    for number, name in enumerate(("ant", "bee", "cat")):
        for i in range(3):
            picture(root / "data" / name / f"{i}.png", 10 * number + i)
    dataset = data.load_dataset(str(root / "data"))
    space, skeleton = nasbench201_space(), Skeleton(2, 1, dataset.image_shape, 3)
    arch = jnp.full(6, 1)
    params, stats = nasbench201_network(arch, skeleton).init(jax.random.key(0))
    save_network(root / "run", params, stats, space.to_genotype(arch), skeleton, dataset)
    return root / "run"


def classified(trained, capsys, *arguments):
    """(exit code, lines of standard output, those of standard error)."""
    code = 0
    try:
        command.main(predict.main, predict.Config, ["--run", str(trained), *map(str, arguments)])
    except SystemExit as stopped:
        code = stopped.code
    told = capsys.readouterr()
    return code, told.out.splitlines(), told.err.splitlines()


def test_folders_patterns_and_other_channels_are_classified_past_what_cannot_be_read(trained, tmp_path, capsys):
    for number, (name, mode) in enumerate({"a.png": "RGB", "b/c.png": "RGBA", "b/d.jpg": "CMYK", "e.png": "L"}.items()):
        picture(tmp_path / "photos" / name, number, mode)
    picture(tmp_path / "photos" / "__MACOSX" / "x.png")
    (tmp_path / "photos" / "._a.png").write_bytes(bytes(64))
    (tmp_path / "photos" / "broken.png").write_bytes(b"\x89PNG")
    (tmp_path / "photos" / "notes.txt").touch()
    table = tmp_path / "classes.csv"
    code, out, err = classified(trained, capsys, tmp_path / "photos", tmp_path / "photos" / "*.png", "--out", table)
    named = [line.split(": ")[0] for line in out[:-2]]
    assert named == [str(tmp_path / "photos" / name) for name in ("a.png", "b/c.png", "b/d.jpg", "e.png")]
    assert code == 2
    assert len(err) == 1
    assert "1 of 5 images could not be read, the first: " in err[0]
    assert "broken.png" in err[0]
    with table.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["image"] for row in rows] == named
    apply, params = jaxnas.load(trained)
    pixels = np.stack([data.read_image(path, data.ImageForm(3, (10, 12))) for path in data.image_files(named)])
    expected = np.asarray(jax.nn.softmax(jax.jit(apply)(params, pixels)))
    found = np.array([[float(row[f"p({name})"]) for name in ("ant", "bee", "cat")] for row in rows])
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert [row["class"] for row in rows] == [("ant", "bee", "cat")[k] for k in expected.argmax(1)]


def test_prediction_without_anything_to_read_is_one_line(trained, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "there.csv").write_text("mine")
    (tmp_path / "no.png").write_bytes(b"")
    for arguments, message in (
        ((tmp_path / "empty",), "has no images"),
        ((tmp_path / "*.jpg",), "has no images"),
        ((tmp_path / "no.png",), "no.png cannot be decoded"),
        ((tmp_path / "absent.png",), "absent.png is not there"),
        ((tmp_path / "no.png", "--out", tmp_path / "there.csv"), "there.csv is there already: take another name"),
        ((tmp_path / "no.png", "--top", "0"), "top must be at least 1, got 0"),
    ):
        code, out, err = classified(trained, capsys, *arguments)
        assert (code, out, len(err)) == (2, [], 1), err
        assert message in err[0]
    assert (tmp_path / "there.csv").read_text() == "mine"
