"""Encoded images to uint8 arrays: the one way in which all programs read them, for training and for prediction.

An image is turned upright by its EXIF orientation, brought to 8 bits a channel, laid over the background where it is
transparent, brought to the channels that are wanted, and resized, in this order. An `ImageForm` says what is wanted; it
is kept beside a trained network. The header of an image says how large it will be, and is read before memory is taken:
a file of some kilobytes may unpack to gigabytes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import glob
import io
import struct
import warnings
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from jaxnas.data.dataset import RESIZE, DataError
from jaxnas.files import expanded
from jaxnas.memory import machine_memory

_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_GRAY = ("1", "L", "LA", "I", "F")
_DEEP = "I;16"  # and what begins so: 16 bits in another order of bytes
_BROKEN = (
    OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, OverflowError, struct.error, zlib.error,
    Image.DecompressionBombError,
)  # fmt: skip
"""Pillow reports a broken file by any of these."""
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "PPM", "TIFF")
"""Those of Pillow's that are read, whatever a file is called: others run programs, or unpack without a limit."""
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".tif", ".tiff")
"""Of files of these formats."""
MOST_PIXELS = 2**26
"""Of one image: a camera's have up to about 50 million."""
LARGEST_SIDE = 4096
"""Of the images that a network is given."""


@dataclasses.dataclass(frozen=True)
class ImageForm:
    """What files of images are made into.

    channels: 1 is gray, 3 is color, 4 is color with alpha. size: (height, width), None for the size of the file.
    resizing: the name of Pillow's filter, which averages over all pixels that a new pixel covers; proportions are not
    kept. background: the gray value, 0 to 255, under transparent pixels where the form has no alpha.

    >>> ImageForm(channels=3, size=(32, 32))
    ImageForm(channels=3, size=(32, 32), resizing='bilinear', background=255)
    """

    channels: int
    size: tuple[int, int] | None = None
    resizing: str = "bilinear"
    background: int = 255

    def __post_init__(self) -> None:
        if self.channels not in _MODES:
            raise DataError(f"images have 1, 3 or 4 channels (gray, color, color with alpha), got {self.channels}")
        if self.size is not None and (len(self.size) != 2 or not 1 <= min(self.size) <= max(self.size) <= LARGEST_SIDE):
            raise DataError(f"size must be a height and a width of 1 to {LARGEST_SIDE} pixels, got {self.size}")
        if self.resizing.upper() not in Image.Resampling.__members__:
            known = ", ".join(name.lower() for name in Image.Resampling.__members__)
            raise DataError(f"unknown filter {self.resizing!r}; known are {known}")
        if not 0 <= self.background <= 255:
            raise DataError(f"background must be 0 to 255, got {self.background}")


def read_image(source: bytes | Path, form: ImageForm) -> np.ndarray:
    """The image of a file, or of its bytes, as uint8 [H, W, C].

    Raises: DataError where it is no file, cannot be decoded, or has values whose range is not known.

    >>> from PIL import Image
    >>> file = io.BytesIO()
    >>> Image.new("L", (6, 4), color=200).save(file, "PNG")
    >>> image = read_image(file.getvalue(), ImageForm(channels=3, size=(2, 2)))
    >>> image.shape, int(image.max())
    ((2, 2, 3), 200)
    """
    name = "an image" if isinstance(source, bytes) else str(source)
    if isinstance(source, Path):
        _check_file(source)
    try:
        with _opened(source, name) as image:
            image.load()
            with contextlib.suppress(*_BROKEN):  # damaged EXIF data are none
                ImageOps.exif_transpose(image, in_place=True)
            converted = _converted(_in_8_bits(image, name), form)
            if form.size is not None and converted.size != form.size[::-1]:
                converted = converted.resize(form.size[::-1], Image.Resampling[form.resizing.upper()])
            return np.asarray(converted, np.uint8).reshape(converted.height, converted.width, form.channels)
    except DataError:
        raise
    except _BROKEN as error:
        raise DataError(f"{name} cannot be decoded: {error}") from error


@contextlib.contextmanager
def _opened(source: bytes | Path, name: str) -> Iterator[Image.Image]:
    """The image of which the header alone is read. Raises DataError where it says that it is too large."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, of damaged metadata and of sizes that are checked here
        too_large = f"{name} has more than the {MOST_PIXELS:,} pixels that are read: make it smaller"
        try:
            opened = Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS)
        except Image.DecompressionBombError:
            raise DataError(too_large) from None
        with opened as image:
            if image.width * image.height > MOST_PIXELS:
                raise DataError(too_large)
            yield image


def _in_8_bits(image: Image.Image, name: str) -> Image.Image:
    """The image with 8 bits a channel: 65,535, the largest of 16 bits, becomes 255."""
    # Pillow gives the gray values of a PGM or PNG file in 32 bits, but always of 0 to 65,535.
    if image.mode.startswith(_DEEP) or (image.mode == "I" and image.format in ("PNG", "PPM")):
        values = np.asarray(image).astype(np.uint32)
        return Image.fromarray(((values + 128) // 257).astype(np.uint8))
    if image.mode in ("I", "F"):
        kind = "32-bit integers" if image.mode == "I" else "floating-point numbers"
        raise DataError(f"{name} has {kind}, whose range is not known: convert it to 8 or 16 bits a channel")
    return image


def _converted(image: Image.Image, form: ImageForm) -> Image.Image:
    """The image with the channels of the form, transparent pixels over its background."""
    if image.has_transparency_data and form.channels != 4:
        over = Image.new("RGBA", image.size, (form.background,) * 3 + (255,))
        image = Image.alpha_composite(over, image.convert("RGBA"))
    return image.convert(_MODES[form.channels])


def is_gray(path: Path) -> bool:
    """Whether an image file has one channel beside alpha; only its header is read. Raises DataError."""
    _check_file(path)
    try:
        with _opened(path, str(path)) as image:
            return image.mode in _GRAY or image.mode.startswith(_DEEP)
    except DataError:
        raise
    except _BROKEN as error:
        raise DataError(f"{path} is no image that can be read: {error}") from error


def _check_file(path: Path) -> None:
    """Nothing but a file is opened: a pipe would be waited for without end."""
    if not path.is_file():
        what = "is no regular file: take it away" if path.exists() else "is not there"
        raise DataError(f"{path} {what}")


def check_memory(size: int, what: str) -> None:
    """Raises DataError where so many bytes are more than this machine has."""
    most = machine_memory()
    if most is not None and size > most:
        raise DataError(f"{what} need {size / 1e9:.1f} GB, and there are {most / 1e9:.1f} GB: give a smaller --size")


def image_files(paths: Iterable[str]) -> list[Path]:
    """The files of images that paths name, each once: of a folder all within it, at any depth, sorted; a pattern such
    as 'photos/*.png' stands for what it matches; ~ is the home.

    What a system adds (names that begin with a dot or two underscores) is passed over in folders and patterns.

    Raises: DataError where a folder or a pattern has none, or nothing was given.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("cat.png", "dog.jpg", "notes.txt"):
    ...         Path(folder, name).touch()
    ...     [path.name for path in image_files([folder])]
    ['cat.png', 'dog.jpg']
    """
    found: dict[Path, None] = {}
    for given in paths:
        path = expanded(given)
        if path.is_dir():
            here = sorted(each for each in path.rglob("*") if each.suffix.lower() in SUFFIXES and _visible(each, path))
        elif not path.exists() and glob.has_magic(given):
            here = sorted(
                each
                for each in map(Path, glob.iglob(str(path), recursive=True))
                if not each.is_dir() and _visible(each, each.parent)
            )
        else:
            here = [path]
        if not here:
            raise DataError(f"{given} has no images ({', '.join(suffix[1:] for suffix in SUFFIXES)})")
        found |= dict.fromkeys(here)
    if not found:
        raise DataError("no image given: name at least one file, folder or pattern")
    return list(found)


def _visible(path: Path, root: Path) -> bool:
    return not any(is_of_system(part) for part in path.relative_to(root).parts)


def is_of_system(name: str) -> bool:
    """Whether a name is of what systems add: ._image.png, .DS_Store, __MACOSX."""
    return name.startswith((".", "__"))


def stack(images: Iterable[np.ndarray], count: int, origin: str) -> np.ndarray:
    """Puts `count` images [H, W, C] into one uint8 array [N, H, W, C].

    Raises DataError where they differ in size, or memory is too small for all; `origin` says in the message where they
    came from.
    """
    result: np.ndarray | None = None
    for i, image in enumerate(images):
        if result is None:
            check_memory(count * image.nbytes, f"the {count:,} images of {origin}, {image.nbytes:,} bytes each,")
            result = np.empty((count, *image.shape), np.uint8)
        if image.shape != result.shape[1:]:
            sizes = " and ".join(f"{h}x{w}" for h, w, _ in (result.shape[1:], image.shape))
            raise DataError(f"{origin} has images of different sizes, {sizes}: {RESIZE}")
        result[i] = image
    if result is None:
        raise DataError(f"{origin} has no images")
    return result
