"""The network that a run found, kept in its folder and given back ready for use."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, NotRequired, TypedDict

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.base import Array, Context, Network, PyTree, SearchSpace, Skeleton, Stats
from jaxnas.checkpoint import Checkpoints
from jaxnas.data.augment import network_inputs, normalize
from jaxnas.data.dataset import DataError, Dataset, forms
from jaxnas.data.images import ImageForm
from jaxnas.files import expanded, read_json, write_json
from jaxnas.shapes import Bounds

if TYPE_CHECKING:
    from jaxnas.catalog import Entry


__all__ = ["Loaded", "describe", "image_form", "load", "save_network"]


class _Skeleton(TypedDict):
    channels: Annotated[int, Bounds(1, 1 << 14)]
    cells: Annotated[int, Bounds(1, 500)]
    image_shape: Annotated[list[Annotated[int, Bounds(1, 1 << 14)]], Bounds(3, 3)]
    num_classes: Annotated[int, Bounds(1, 1 << 24)]
    auxiliary: NotRequired[bool]
    dtype: NotRequired[str]


class _Form(TypedDict):
    channels: Annotated[int, Bounds(1, 4)]
    size: Annotated[list[Annotated[int, Bounds(1, 1 << 14)]], Bounds(2, 2)]
    resizing: NotRequired[str]
    background: NotRequired[int]


class _Description(TypedDict):
    """The shape of network.json."""

    genotype: dict[str, Any]
    skeleton: _Skeleton
    class_names: NotRequired[list[str]]
    mean: NotRequired[list[float]]
    std: NotRequired[list[float]]
    images: NotRequired[_Form | None]
    inputs: NotRequired[list[str]]


class Loaded(NamedTuple):
    """apply: (params, images uint8 [B, H, W, C]) -> logits [B, K]; jit it. params: with the statistics.

    apply raises ValueError for images of another type or shape: they are 0 to 255, never fractions. A network that was
    trained on other data than images is given what its data set had.
    """

    apply: Callable[[PyTree, Array], Any]
    params: PyTree


def save_network(
    run: Path, params: PyTree, stats: Stats, genotype: dict[str, Any], skeleton: Skeleton, dataset: Dataset
) -> None:
    """Keeps a trained network in `run`/network: its parameters and all that is needed to build it.

    run: a folder. params, stats: as the `Network` has them. genotype: as of `to_genotype` of the space. skeleton: that
    the network was built with. dataset: that it was trained on, whose normalization and class names are kept too.

    >>> import tempfile
    >>> from jaxnas.data import load_dataset
    >>> from jaxnas.networks import nasbench201_network
    >>> from jaxnas.spaces import nasbench201_space
    >>> space, skeleton = nasbench201_space(), Skeleton(channels=4, cells=1, image_shape=(8, 8, 1), num_classes=10)
    >>> arch = jnp.ones(6, jnp.int32)  # six skip connections
    >>> params, stats = nasbench201_network(arch, skeleton).init(jax.random.key(0))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_network(Path(folder), params, stats, space.to_genotype(arch), skeleton, load_dataset("digits"))
    ...     apply, kept = load(folder)
    >>> jax.eval_shape(apply, kept, jax.ShapeDtypeStruct((5, 8, 8, 1), "uint8")).shape  # logits of five images
    (5, 10)
    """
    folder = run / "network"
    with Checkpoints(folder) as checkpoints:
        checkpoints.save(0, {"params": params, "stats": stats}, {})
    description: dict[str, Any] = {
        "genotype": genotype,
        "skeleton": dataclasses.asdict(skeleton),
        "class_names": dataset.class_names,
    }
    if dataset.augmentation is not None:
        description |= {
            "mean": dataset.augmentation.mean,
            "std": dataset.augmentation.std,
            "images": None if (form := form_of(dataset)) is None else dataclasses.asdict(form),
        }
    else:
        description["inputs"] = forms(dataset.train.inputs)
    write_json(folder / "network.json", description)


def form_of(dataset: Dataset) -> ImageForm | None:
    """What files are made into to be images of a data set: as its own were, all of one size.

    None where no file has so many channels, or so large a side.
    """
    height, width, channels = dataset.image_shape
    try:
        return ImageForm(channels, (height, width))
    except DataError:
        return None


def image_form(description: Mapping[str, Any]) -> ImageForm:
    """The size and the channels of the images that a network reads, for `jaxnas.data.read_image`.

    description: as of `describe`. Raises ValueError where the network was trained on something else than images.

    >>> description = {"skeleton": {"image_shape": [8, 8, 1]}, "images": {"channels": 1, "size": [8, 8]}}
    >>> image_form(description).size  # of a description as `describe` gives it
    (8, 8)
    """
    height, width, channels = description["skeleton"]["image_shape"]
    if "inputs" in description and "images" not in description:
        raise ValueError(f"this network reads {', '.join(description['inputs'])} of each example, not files of images")
    if "images" not in description:  # of a network that was kept before this was
        return ImageForm(channels, (height, width))
    form = description["images"]
    if form is None:
        raise ValueError(f"this network reads images of {height}×{width}×{channels}, as no file has them")
    given = {field.name: form[field.name] for field in dataclasses.fields(ImageForm) if field.name in form}
    return ImageForm(**{**given, "size": tuple(form["size"])})


def describe(run: str | os.PathLike[str]) -> dict[str, Any]:
    """What a run folder says of its network: genotype, skeleton, class_names, and of images their form, mean and std.

    Raises OSError where the folder has no network, ValueError where the file is damaged.

    >>> describe("runs/none")
    Traceback (most recent call last):
        ...
    OSError: runs/none holds no trained network (...): give the folder of a finished run
    """
    path = expanded(run) / "network" / "network.json"
    if not path.exists():
        raise OSError(f"{run} holds no trained network ({path} is missing): give the folder of a finished run")
    return dict(read_json(path, _Description, "train it again in another folder"))


def _entry(description: Mapping[str, Any]) -> Entry:
    """That of the library. Raises ValueError for the network of a space or a model of one's own, with what to give."""
    from jaxnas.catalog import CATALOG, entry_of  # not before it is needed: it loads all of the library

    name = description["genotype"].get("space", "darts")
    if not isinstance(name, str) or name not in CATALOG:
        raise ValueError(
            f"the network is over {name!r:.80}, which is no space of the library: give the entry of a space of your "
            "own, or of what jaxnas.searchable made of your model, as in jaxnas.load(folder, space=own.entry); in "
            "place of the program export, call jaxnas.export.export_run(folder, formats, space=own.entry)"
        )
    return entry_of(name)


def space_of(description: Mapping[str, Any], entry: Entry | None = None) -> SearchSpace:
    """The space of the network that `describe` described. entry: of a space of your own."""
    from jaxnas.catalog import space_of_genotype

    return space_of_genotype(entry or _entry(description), description["genotype"], _skeleton(description))


def _skeleton(description: Mapping[str, Any]) -> Skeleton:
    shape = description["skeleton"]
    given = {field.name: shape[field.name] for field in dataclasses.fields(Skeleton) if field.name in shape}
    return Skeleton(**{**given, "image_shape": tuple(shape["image_shape"])})


def load(
    run: str | os.PathLike[str], space: Entry | None = None, *, model: Any = None, dtype: str | None = None
) -> Loaded:
    """The found and trained network of a run folder, as (apply, params).

    space: the entry of a space of your own; those of the library are known by the genotype. model: in its place, a
    model with choices in it, or what `jaxnas.searchable` made of it. dtype: of the activations, by default that of the
    training.

    `apply(params, images)` takes uint8 images as they are on disk and normalizes them as in training, or what else the
    data set had as inputs; files become such images by `jaxnas.data.read_image` with `image_form(describe(run))`.
    Raises OSError where the folder holds no network, ValueError where it is damaged, or the model is not the one that
    was searched: with other choices, or layers of other shapes.

    docs/start.md has an example after a run, and `save_network` one without.
    """
    if space is not None and model is not None:
        raise ValueError("give space or model, not both")
    description = describe(run)
    if dtype is not None:
        description["skeleton"] = {**description["skeleton"], "dtype": dtype}
    channels = description["skeleton"]["image_shape"][2]
    if "inputs" not in description and any(len(description.get(name, ())) != channels for name in ("mean", "std")):
        raise ValueError(f"{run}/network/network.json: mean and std must be a number for each of {channels} channels")
    if len(description.get("class_names", ())) not in (0, description["skeleton"]["num_classes"]):
        raise ValueError(f"{run}/network/network.json: class_names must be one for each class")
    if model is not None:
        space = _entry_of_model(model, description, run)
    network = network_of(description, space)
    target = jax.eval_shape(network.init, jax.random.key(0))
    with Checkpoints(expanded(run) / "network") as checkpoints:
        try:
            restored = checkpoints.restore({"params": target[0], "stats": target[1]})
        except ValueError as error:
            if model is None:
                raise
            raise ValueError(f"the network of {run} is of another model: {error}") from error
    if restored is None:
        raise OSError(f"{run}/network holds no whole checkpoint: run the training again")
    return Loaded(applied(description, network), restored.state)


def network_of(description: Mapping[str, Any], space: Entry | None = None) -> Network:
    """The untrained network that `describe` described. space: the entry of a space of your own."""
    entry = space or _entry(description)
    own = space_of(description, entry)
    return entry.network(own.from_genotype(description["genotype"]), _skeleton(description), own)


def applied(description: Mapping[str, Any], network: Network) -> Callable[[PyTree, Array], Any]:
    """`Loaded.apply` of the network that `describe` described: takes inputs as they are on disk; traceable."""

    def apply(params: PyTree, images: Array) -> Any:
        if "inputs" in description:
            x = _checked_inputs(images, description["inputs"])
        else:
            image_shape = tuple(description["skeleton"]["image_shape"])
            x = normalize(_checked(images, image_shape), description["mean"], description["std"])
        return network.apply(params["params"], x, Context(bn=params["stats"]))[0]

    return apply


def _entry_of_model(model: Any, description: Mapping[str, Any], run: Any) -> Entry:
    """Of a model, or what `searchable` made of one. Raises ValueError where it has not the choices of the run."""
    from jaxnas.choices import Searchable, searchable  # not before it is needed: most networks are of the library

    genotype = description["genotype"]
    if not isinstance(model, Searchable):
        model = searchable(model, _example(description), name=str(genotype.get("space")))
    names = {choice.name for choice in model.space.choices}
    if names != genotype.keys() - {"space"}:
        raise ValueError(
            f"the network of {run} is of another model: it has the choices "
            f"{', '.join(sorted(genotype.keys() - {'space'}))}, and this one has {', '.join(sorted(names))}"
        )
    return model.entry


def _example(description: Mapping[str, Any]) -> PyTree:
    """A batch of one example in the form of a run's data.

    Raises: ValueError where inputs are neither one array nor arrays by their names.
    """
    if "inputs" not in description:
        return jax.ShapeDtypeStruct((1, *description["skeleton"]["image_shape"]), jnp.float32)
    inputs: dict[str, Any] = {}
    for form in description["inputs"]:
        found = re.fullmatch(r"(?:\['([^']*)'\] )?(\w+) (\[.*\])", form)
        if found is None:
            raise ValueError(f"inputs {form} cannot be made again: give what jaxnas.searchable made of the model")
        name, kind, shape = found.groups()
        inputs[name or ""] = jax.ShapeDtypeStruct((1, *json.loads(shape)), kind.replace("64", "32"))
    return inputs.get("", inputs)


def _checked(images: Any, image_shape: tuple[int, int, int]) -> Array:
    """The images as an array. Raises ValueError where they are not uint8 [B, H, W, C]."""
    found = images if isinstance(images, jax.Array) else np.asarray(images)
    if found.dtype != np.uint8 or found.ndim != 4 or found.shape[1:] != image_shape:
        wanted = "B, " + ", ".join(map(str, image_shape))
        remedy = (
            "fractions of 0 to 1 become such by (255 * images).round().astype('uint8')"
            if np.issubdtype(found.dtype, np.floating)
            else "jaxnas.data.read_image makes such of a file, see jaxnas.load"
        )
        raise ValueError(
            f"images must be uint8 [{wanted}] of 0 to 255, got {found.dtype} {list(found.shape)}; {remedy}"
        )
    return jnp.asarray(found)


def _checked_inputs(inputs: PyTree, wanted: Sequence[str]) -> PyTree:
    """Inputs that are no images, floats as float32. Raises ValueError where they have another form than in training."""
    arrays = jax.tree.map(jnp.asarray, inputs)
    # As data sets have them, numbers may be of 64 bits.
    found, needed = ([form.replace("64", "32") for form in each] for each in (forms(arrays), wanted))
    if found != needed:
        raise ValueError(f"inputs must be {', '.join(needed)} of each example, as in training, got {', '.join(found)}")
    return network_inputs(arrays, None)
