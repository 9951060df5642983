"""Files of images, read alike for training and for prediction, and what a loaded network takes."""

import dataclasses
import io
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import jaxnas
from experiments import predict
from jaxnas import command, data
from jaxnas.base import Skeleton
from jaxnas.networks import nasbench201_network
from jaxnas.saved import describe, image_form, save_network
from jaxnas.spaces import nasbench201_space

COLOR, GRAY = data.ImageForm(3), data.ImageForm(1)


def encoded(image, suffix="png", **options):
    content = io.BytesIO()
    image.save(content, suffix, **options)
    return content.getvalue()


def noise(*shape, seed=0):
    return np.random.RandomState(seed).randint(0, 256, shape).astype(np.uint8)


@pytest.mark.parametrize("suffix", ["png", "tiff", "ppm"])
def test_sixteen_bits_become_eight(suffix):
    values = np.array([[0, 128, 129, 257], [32767, 32896, 65406, 65535]], np.uint16)
    content = encoded(Image.fromarray(values), suffix)
    np.testing.assert_array_equal(data.read_image(content, GRAY)[..., 0], [[0, 0, 1, 1], [127, 128, 254, 255]])
    assert data.read_image(content, COLOR).shape == (2, 4, 3)
    same = noise(5, 5)
    deep = encoded(Image.fromarray(same.astype(np.uint16) * 257), suffix)
    np.testing.assert_array_equal(data.read_image(deep, GRAY)[..., 0], same)


@pytest.mark.parametrize("kind", [np.int32, np.float32])
def test_values_of_no_known_range_are_refused(kind, tmp_path):
    path = tmp_path / "x.tiff"
    Image.fromarray(np.ones((4, 4), kind)).save(path)
    with pytest.raises(data.DataError, match=r"x\.tiff has .* whose range is not known: convert it to 8 or 16 bits"):
        data.read_image(path, GRAY)


# Where EXIF's orientation says that the stored pixels belong.
UPRIGHT = {
    1: lambda x: x,
    2: np.fliplr,
    3: lambda x: np.rot90(x, 2),
    4: np.flipud,
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: np.rot90(x, -1),
    7: lambda x: np.rot90(x, 2).swapaxes(0, 1),
    8: np.rot90,
}


@pytest.mark.parametrize("suffix", ["png", "webp", "tiff"])
def test_images_are_turned_upright(suffix):
    pixels = noise(3, 5, 3)
    options = {"lossless": True} if suffix == "webp" else {}
    for orientation, upright in UPRIGHT.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        found = data.read_image(encoded(Image.fromarray(pixels), suffix, exif=exif, **options), COLOR)
        np.testing.assert_array_equal(found, upright(pixels), str(orientation))
    resized = data.ImageForm(3, (3, 5))
    turned = encoded(Image.fromarray(np.rot90(pixels).copy()), suffix, exif=_sideways(), **options)
    np.testing.assert_array_equal(data.read_image(turned, resized), pixels)


def _sideways():
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


def test_damaged_orientation_is_none():
    pixels = noise(3, 5, 3)
    content = encoded(Image.fromarray(pixels), exif=b"Exif\x00\x00nonsense")
    np.testing.assert_array_equal(data.read_image(content, COLOR), pixels)


def test_what_is_transparent_shows_the_background():
    alpha = np.array([[0, 255, 128]], np.uint8)
    gray = np.array([[10, 10, 10]], np.uint8)
    expected = [255, 10, 255 - round(245 * 128 / 255)]
    color = Image.fromarray(np.dstack([gray, gray, gray, alpha]))
    shaded = Image.merge("LA", [Image.fromarray(gray), Image.fromarray(alpha)])
    for image in (color, shaded):
        for form in (COLOR, GRAY):
            found = data.read_image(encoded(image), form)
            np.testing.assert_allclose(found, np.tile(np.array(expected)[None, :, None], form.channels), atol=1)
        black = data.read_image(encoded(image), dataclasses.replace(COLOR, background=0))
        np.testing.assert_allclose(black[0, :, 0], [0, 10, 5], atol=1)
        assert data.read_image(encoded(image), data.ImageForm(4))[0, :, 3].tolist() == [0, 255, 128]
    palette = Image.new("P", (2, 1))
    palette.putpalette([200, 0, 0, 0, 200, 0])
    palette.putpixel((1, 0), 1)
    for suffix in ("png", "gif"):
        found = data.read_image(encoded(palette, suffix, transparency=0), COLOR)
        np.testing.assert_array_equal(found[0], [[255, 255, 255], [0, 200, 0]])


def test_resizing_averages_what_a_pixel_covers():
    board = np.indices((64, 64)).sum(axis=0) % 2 * 255
    found = data.read_image(encoded(Image.fromarray(board.astype(np.uint8))), data.ImageForm(1, (4, 8)))
    assert found.shape == (4, 8, 1)
    assert np.abs(found.astype(int) - 127).max() <= 2


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"channels": 2}, "1, 3 or 4 channels .*, got 2"),
        ({"channels": 3, "size": (0, 3)}, r"1 to 4096 pixels, got \(0, 3\)"),
        ({"channels": 3, "resizing": "best"}, "unknown filter 'best'; known are nearest, "),
        ({"channels": 3, "background": 256}, "0 to 255, got 256"),
    ],
)
def test_wrong_forms(wrong, message):
    with pytest.raises(data.DataError, match=message):
        data.ImageForm(**wrong)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(run folder with a network that was never trained, the data set, its files by the bytes of their images)."""
    root = tmp_path_factory.mktemp("trained")
    for number, name in enumerate(("ant", "bee", "cat")):
        (root / "data" / name).mkdir(parents=True)
        for i in range(4):
            image = Image.fromarray(noise(9 + 3 * number, 14 + i, 4, seed=10 * number + i))
            image.save(root / "data" / name / f"{i}.png", exif=_sideways())
    values = noise(9, 20).astype(np.uint16) * 250
    Image.fromarray(values).save(root / "data" / "ant" / "deep.png")
    dataset = data.load_dataset(str(root / "data"), size=(6, 8))
    space, skeleton = nasbench201_space(), Skeleton(2, 1, dataset.image_shape, 3)
    arch = jnp.full(6, 1)
    params, stats = nasbench201_network(arch, skeleton).init(jax.random.key(0))
    save_network(root / "run", params, stats, space.to_genotype(arch), skeleton, dataset)
    return root, dataset


def test_prediction_sees_the_pixels_of_the_training(trained, capsys):
    root, dataset = trained
    form = image_form(describe(root / "run"))
    assert form == data.ImageForm(3, (6, 8))
    files = sorted((root / "data").rglob("*.png"))
    there = {image.tobytes() for image in np.concatenate([dataset.train.inputs, dataset.test.inputs])}
    images = [data.read_image(file, form) for file in files]
    assert {image.tobytes() for image in images} == there
    command.main(predict.main, predict.Config, ["--run", str(root / "run"), *map(str, files)])
    lines = capsys.readouterr().out.splitlines()
    apply, params = jaxnas.load(root / "run")
    for line, row in zip(lines, jax.nn.softmax(jax.jit(apply)(params, np.stack(images))), strict=True):
        told = dict(part.split() for part in line.split(": ")[1].split(", "))
        np.testing.assert_allclose([float(told[name]) for name in dataset.class_names], row, atol=6e-4)


def test_a_network_kept_before_forms_were_is_read_in_the_usual_form(trained):
    description = describe(trained[0] / "run")
    del description["images"]
    assert image_form(json.loads(json.dumps(description))) == data.ImageForm(3, (6, 8))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (
            np.zeros((2, 6, 8, 3)),
            r"uint8 \[B, 6, 8, 3\] of 0 to 255, got float64 \[2, 6, 8, 3\]; fractions .* \(255 \*",
        ),
        (np.zeros((2, 6, 8, 3), np.int32), r"got int32 \[2, 6, 8, 3\]"),
        (np.zeros((6, 8, 3), np.uint8), r"got uint8 \[6, 8, 3\]; jaxnas.data.read_image"),
        (np.zeros((2, 8, 6, 3), np.uint8), r"got uint8 \[2, 8, 6, 3\]"),
    ],
)
def test_a_loaded_network_refuses_other_images(trained, images, message):
    apply, params = jaxnas.load(trained[0] / "run")
    for way in (apply, jax.jit(apply)):
        with pytest.raises(ValueError, match=message if way is apply else r"uint8 \[B, 6, 8, 3\]"):
            way(params, images)
