"""Data from files: CIFAR-10 prepared from an archive and read back, folders, the embedded digits, wrong input."""

import dataclasses
import gzip
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_hosts import free_port

from experiments import prepare_cifar10
from jaxnas import command, data
from jaxnas.data import cifar10_archive, dataset, tfrecord
from jaxnas.data.stored import StoredImages
from jaxnas.train.trainer import make_evaluate

NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def write_archive(path: Path, leave_out: str = "") -> dict[str, data.Examples]:
    """A small archive in the layout of cifar-10-binary.tar.gz: 5 x 6 train and 10 test images."""
    random = np.random.RandomState(0)
    parts: dict[str, data.Examples] = {}
    with tarfile.open(path, "w:gz") as archive:

        def add(name, content):
            if name != leave_out:
                info = tarfile.TarInfo("cifar-10-batches-bin/" + name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))

        add("batches.meta.txt", ("\n".join(NAMES) + "\n\n").encode())
        for part, files, count in (
            ("train", [f"data_batch_{i}.bin" for i in range(1, 6)], 6),
            ("test", ["test_batch.bin"], 10),
        ):
            images = random.randint(0, 256, (len(files) * count, 32, 32, 3)).astype(np.uint8)
            labels = (np.arange(len(images)) % 10).astype(np.int32)
            for i, file in enumerate(files):
                here = range(i * count, (i + 1) * count)
                add(file, b"".join(bytes([labels[j]]) + images[j].transpose(2, 0, 1).tobytes() for j in here))
            parts[part] = data.Examples(images, labels)
    return parts


def as_set(images, labels):
    return sorted((image.tobytes(), int(label)) for image, label in zip(images, labels, strict=True))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """(source, {file format: data directory}), made by the program itself."""
    root = tmp_path_factory.mktemp("cifar10")
    source = write_archive(root / "small.tar.gz")
    directories = {}
    for file_format in ("array_record", "tfrecord"):
        directories[file_format] = root / file_format
        arguments = ["--archive", root / "small.tar.gz", "--data-dir", root / file_format, "--file-format", file_format]
        command.main(prepare_cifar10.run, prepare_cifar10.Config, [*map(str, arguments), "--allow-other-checksum"])
    return source, directories


@pytest.mark.parametrize("file_format", ["array_record", "tfrecord"])
def test_cifar10_has_the_pixels_of_the_archive(prepared, file_format):
    source, directories = prepared
    found = data.load_dataset("cifar10", str(directories[file_format]))
    assert list(directories[file_format].glob("cifar10/3.0.2/*." + file_format + "-*"))
    assert found.class_names == NAMES
    assert found.image_shape == (32, 32, 3)
    assert as_set(found.train.inputs, found.train.targets) == as_set(*source["train"])
    assert as_set(*found.test) == as_set(*source["test"])
    assert (found.augmentation.shift, found.augmentation.flip, found.augmentation.cutout) == (4, True, 16)
    pixels = source["train"].inputs.reshape(-1, 3) / 255
    np.testing.assert_allclose(found.augmentation.mean, pixels.mean(axis=0), atol=6e-5)
    np.testing.assert_allclose(found.augmentation.std, pixels.std(axis=0), atol=6e-5)


def test_both_formats_have_the_same_order_and_tfds_reads_them(prepared):
    import tensorflow_datasets as tfds

    _, directories = prepared
    one, other = (data.load_dataset("cifar10:3.0.2", str(directory)) for directory in directories.values())
    np.testing.assert_array_equal(one.train.inputs, other.train.inputs)
    np.testing.assert_array_equal(one.train.targets, other.train.targets)
    assert data.fingerprint(one) == data.fingerprint(other)
    assert data.fingerprint(one)["source"] == "cifar10/3.0.2"
    builder = tfds.builder("cifar10", data_dir=str(directories["array_record"]))
    assert builder.is_prepared()
    source = builder.as_data_source("train")
    np.testing.assert_array_equal(np.stack([source[i]["image"] for i in range(len(source))]), one.train.inputs)


def test_read_only_directory_and_no_tensorflow(prepared):
    _, directories = prepared
    directory = directories["array_record"]
    changed = {file: file.stat().st_mode for file in (directory, *directory.rglob("*"))}
    before = {file: file.stat().st_mtime_ns for file in changed}
    try:
        for file in changed:
            file.chmod(0o555 if file.is_dir() else 0o444)
        program = (
            "import sys; from jaxnas import data; "
            f"print(len(data.load_dataset('cifar10', {str(directory)!r}).train.targets), 'tensorflow' in sys.modules)"
        )
        result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    finally:
        for file, mode in changed.items():
            file.chmod(mode)
    assert result.stdout.split()[-2:] == ["30", "False"]
    # The superuser may write in spite of the modes: nothing must have been.
    assert {file: file.stat().st_mtime_ns for file in (directory, *directory.rglob("*"))} == before


def test_stored_images_are_read_once_and_only_those_looked_at():
    everything = np.random.RandomState(0).randint(0, 256, (20, 2, 3, 1)).astype(np.uint8)
    asked = []

    def read(numbers):
        asked.extend(numbers.tolist())
        return everything[numbers]

    images = StoredImages(read, 20, (2, 3, 1))
    part = images.rows(np.array([3, 5, 7, 11, 13]))[1:]
    assert (part.shape, part.ndim, part.dtype, len(part), asked) == ((4, 2, 3, 1), 4, np.uint8, 4, [])
    np.testing.assert_array_equal(part[np.array([3, 0, 3])], everything[[13, 5, 13]])
    assert asked == [5, 13]
    np.testing.assert_array_equal(part[1], everything[7])
    np.testing.assert_array_equal(part, everything[[5, 7, 11, 13]])
    assert (asked, images.read_so_far) == ([5, 13, 7, 11], 4)


# One of two processes: what it has of the data set, and how many images it has read by then.
TWO = """
import dataclasses, json, sys, zlib
import jax, numpy as np
from jaxnas import data
from jaxnas.parallel import data_parallel, join_hosts
from jaxnas.train.trainer import make_evaluate
jax.config.update("jax_num_cpu_devices", 2)
join_hosts(sys.argv[1], 2, int(sys.argv[2]))
digest = lambda images: zlib.crc32(np.asarray(images).tobytes())
found = data.load_dataset("cifar10", sys.argv[3])
fingerprints = [data.fingerprint(found)]
read = [found.train.inputs.read_so_far, found.test.inputs.read_so_far]
parts = data.split(found, 0, 0.5)
placed = data_parallel("sharded").place_data(parts.train.inputs)
shards = {str(s.index[0].start): digest(s.data) for s in placed.addressable_shards}
read.append(found.train.inputs.read_so_far)
evaluate = make_evaluate(lambda scale, images: scale * images.reshape(len(images), -1)[:, :10], found.augmentation, 3)
result = evaluate(np.float32(2), found.test)
read.append(found.test.inputs.read_so_far)
part = dataclasses.replace(found, train=data.Examples(found.train.inputs[7:], found.train.targets[7:]))
fingerprints.append(data.fingerprint(part))
uneven = make_evaluate(lambda scale, images: scale * images.reshape(len(images), -1)[:, :10], found.augmentation, 4)
about = found.augmentation
print(json.dumps({
    "labels": found.train.targets.tolist(), "mean": about.mean, "std": about.std, "shards": shards, "read": read,
    "evaluation": list(result), "uneven": list(uneven(np.float32(2), found.test)), "train": digest(found.train.inputs),
    "fingerprints": fingerprints,
}))
"""


@pytest.mark.parametrize("file_format", ["array_record", "tfrecord"])
def test_two_processes_read_a_part_each_and_have_what_one_has(prepared, file_format):
    directory = str(prepared[1][file_format])
    at = f"127.0.0.1:{free_port()}"
    both = [
        subprocess.Popen(
            [sys.executable, "-c", TWO, at, str(number), directory], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for number in range(2)
    ]
    outputs = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    told = [json.loads(out.splitlines()[-1]) for out, _ in outputs]
    one = data.load_dataset("cifar10", directory)
    train = data.split(one, 0, 0.5).train.inputs
    evaluate = make_evaluate(lambda scale, x: scale * x.reshape(len(x), -1)[:, :10], one.augmentation, 3)
    result = evaluate(np.float32(2), one.test)
    part = dataclasses.replace(one, train=data.Examples(one.train.inputs[7:], one.train.targets[7:]))
    for number, each in enumerate(told):
        assert each["labels"] == one.train.targets.tolist()
        assert each["mean"] == list(one.augmentation.mean)
        assert each["std"] == list(one.augmentation.std)
        # 15 training images, over four devices four each, the last one filled up with the first.
        for start in (8 * number, 8 * number + 4):
            rows = np.arange(start, start + 4) % 15
            assert each["shards"][str(start)] == zlib.crc32(train[rows].tobytes())
        assert each["read"][:2] == [15, 5]
        assert each["read"][2] <= 15 + 3  # of its half of the part some lie in the other's half of the files
        assert each["read"][3] <= 6  # two of the four batches of three, and the block of before
        assert each["evaluation"] == pytest.approx(list(result), rel=1e-6)
        assert each["uneven"] == pytest.approx(list(result), rel=1e-6)  # three batches: one and two
        assert each["train"] == zlib.crc32(one.train.inputs.tobytes())
        assert each["fingerprints"] == [data.fingerprint(one), data.fingerprint(part)]


@pytest.mark.parametrize("file_format", ["array_record", "tfrecord"])
@pytest.mark.parametrize("kept", [0.0, 0.5, 0.999])
def test_file_cut_short_is_named(prepared, file_format, kept, tmp_path):
    _, directories = prepared
    origin = directories[file_format] / "cifar10" / "3.0.2"
    copy = tmp_path / "cifar10" / "3.0.2"
    copy.mkdir(parents=True)
    for file in origin.iterdir():
        content = file.read_bytes()
        is_train = "-train." in file.name
        (copy / file.name).write_bytes(content[: int(kept * len(content))] if is_train else content)
    with pytest.raises(data.DataError, match=f"cifar10-train.{file_format}"):
        data.load_dataset("cifar10", str(tmp_path))
    (copy / f"cifar10-train.{file_format}-00000-of-00001").unlink()
    with pytest.raises(data.DataError, match=f"cifar10-train.{file_format}.*is missing"):
        data.load_dataset("cifar10", str(tmp_path))


def test_fewer_records_than_described(prepared, tmp_path):
    _, directories = prepared
    origin = directories["tfrecord"] / "cifar10" / "3.0.2"
    copy = tmp_path / "cifar10" / "3.0.2"
    copy.mkdir(parents=True)
    for file in origin.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    shard = copy / "cifar10-train.tfrecord-00000-of-00001"
    tfrecord.write_records(shard, list(tfrecord.read_records(shard))[:-1])
    with pytest.raises(data.DataError, match="has 29 records, but 30 are described"):
        data.load_dataset("cifar10", str(tmp_path))
    (copy / "dataset_info.json").write_text("{")
    with pytest.raises(data.DataError, match="cannot read the description of cifar10"):
        data.load_dataset("cifar10", str(tmp_path))


def copied(prepared, tmp_path, **splits):
    """The small CIFAR-10 as tfrecord, with splits of other names: new name -> name."""
    shutil.copytree(prepared[1]["tfrecord"], tmp_path, dirs_exist_ok=True)
    folder = tmp_path / "cifar10" / "3.0.2"
    description = json.loads((folder / "dataset_info.json").read_text())
    there = {split["name"]: split for split in description["splits"]}
    description["splits"] = [{**there[old], "name": new} for new, old in splits.items()]
    (folder / "dataset_info.json").write_text(json.dumps(description))
    for new, old in splits.items():
        name = "cifar10-{}.tfrecord-00000-of-00001".format
        if new != old:
            shutil.copy(folder / name(old), folder / name(new))
    return folder


def test_splits_of_tfds_are_read_or_named(prepared, tmp_path):
    copied(prepared, tmp_path, train="train", validation="test", unlabeled="test")
    found = data.load_dataset("cifar10", str(tmp_path), size=(8, 12))
    assert found.summary() == {
        "images": {"train": 24, "valid": 10, "test": 6},
        "origins": {"train": "train but for a fifth", "valid": "validation", "test": "a fifth of train"},
        "not_read": ["split unlabeled"],
        "lacking": {"test": ["frog", "horse", "ship", "truck"]},
        "classes": 10,
        "image_shape": [8, 12, 3],
    }


def relabeled(folder, split, change):
    """Changes the features of every record of a split of one file."""
    from tensorflow_datasets.proto import tf_example_pb2

    path = folder / f"cifar10-{split}.tfrecord-00000-of-00001"
    records = []
    for record in tfrecord.read_records(path):
        example = tf_example_pb2.Example.FromString(record)
        change(example.features.feature)
        records.append(example.SerializeToString())
    tfrecord.write_records(path, records)


def test_a_split_of_tfds_without_labels_is_not_read(prepared, tmp_path):
    folder = copied(prepared, tmp_path, train="train", validation="test", test="test")

    def unlabel(feature):
        feature["label"].int64_list.value[:] = [-1]

    relabeled(folder, "test", unlabel)
    found = data.load_dataset("cifar10", str(tmp_path))
    assert found.origins == {"train": "train but for a fifth", "valid": "validation", "test": "a fifth of train"}
    assert found.not_read == ("split test, which has no labels",)
    relabeled(folder, "train", unlabel)
    with pytest.raises(data.DataError, match="train split has label -1"):
        data.load_dataset("cifar10", str(tmp_path))


def test_one_of_several_labels_of_tfds_is_chosen(prepared, tmp_path):
    folder = copied(prepared, tmp_path, train="train", test="test")
    features = json.loads((folder / "features.json").read_text())
    label = features["featuresDict"]["features"]["label"]
    features["featuresDict"]["features"]["parity"] = {**label, "classLabel": {"numClasses": "2"}}
    (folder / "features.json").write_text(json.dumps(features))

    def add(feature):
        feature["parity"].int64_list.value[:] = [feature["label"].int64_list.value[0] % 2]

    for split in ("train", "test"):
        relabeled(folder, split, add)
    usual, other = (data.load_dataset("cifar10", str(tmp_path), label=label) for label in (None, "parity"))
    assert (usual.num_classes, other.num_classes) == (10, 2)
    np.testing.assert_array_equal(usual.train.targets % 2, other.train.targets)
    assert data.fingerprint(usual) != data.fingerprint(other)
    with pytest.raises(data.DataError, match="no label 'color'; its labels are label, parity"):
        data.load_dataset("cifar10", str(tmp_path), label="color")
    info = json.loads((folder / "dataset_info.json").read_text())
    del info["supervisedKeys"]
    (folder / "dataset_info.json").write_text(json.dumps(info))
    with pytest.raises(data.DataError, match="several labels: choose one by --label, of label, parity"):
        data.load_dataset("cifar10", str(tmp_path))


def test_a_pipe_in_place_of_a_description_is_not_waited_for(prepared, tmp_path):
    folder = copied(prepared, tmp_path, train="train", test="test")
    for name in ("dataset_info.json", "features.json"):
        content = (folder / name).read_bytes()
        (folder / name).unlink()
        os.mkfifo(folder / name)
        with pytest.raises(data.DataError, match=rf"{name} is no file"):
            data.load_dataset("cifar10", str(tmp_path))
        (folder / name).unlink()
        (folder / name).write_bytes(content)


@pytest.mark.parametrize("hidden", [False, True])
def test_a_description_that_names_a_foreign_class_is_not_imported(prepared, tmp_path, monkeypatch, hidden):
    folder = copied(prepared, tmp_path / "data", train="train", test="test")
    mark = tmp_path / "mark"
    (tmp_path / "foreign_features.py").write_text(f"open({str(mark)!r}, 'w')")
    monkeypatch.syspath_prepend(str(tmp_path))
    features = json.loads((folder / "features.json").read_text())
    image = features["featuresDict"]["features"]["image"]
    image["pythonClassName"] = "foreign_features.Image"
    if hidden:  # the old form of a description, inside a string
        features["featuresDict"]["features"]["image"] = {
            "pythonClassName": features["pythonClassName"],
            "jsonFeature": {"json": json.dumps({"x": {"type": "foreign_features.Image", "content": {}}})},
        }
    (folder / "features.json").write_text(json.dumps(features))
    with pytest.raises(data.DataError, match=r"features\.json names the class 'foreign_features\.Image'") as caught:
        data.load_dataset("cifar10", str(tmp_path / "data"))
    assert "\n" not in str(caught.value)
    assert not mark.exists()


def test_several_files_are_one_split_in_their_order(prepared, tmp_path):
    directory = prepared[1]["tfrecord"]
    shutil.copytree(directory, tmp_path, dirs_exist_ok=True)
    folder = tmp_path / "cifar10" / "3.0.2"
    whole = folder / "cifar10-train.tfrecord-00000-of-00001"
    records = list(tfrecord.read_records(whole))
    whole.unlink()
    for number, part in enumerate((records[:17], records[17:])):
        tfrecord.write_records(folder / f"cifar10-train.tfrecord-{number:05}-of-00002", part)
    description = json.loads((folder / "dataset_info.json").read_text())
    (train,) = (split for split in description["splits"] if split["name"] == "train")
    train["shardLengths"] = ["17", "13"]
    (folder / "dataset_info.json").write_text(json.dumps(description))
    one, several = (data.load_dataset("cifar10", str(where)) for where in (directory, tmp_path))
    np.testing.assert_array_equal(several.train.inputs, one.train.inputs)
    np.testing.assert_array_equal(several.train.targets, one.train.targets)


def test_crc32c_check_values():
    # RFC 3720, B.4, and the check value of the polynomial's catalogue entry.
    messages = [b"123456789", bytes(32), b"\xff" * 32, bytes(range(32)), b""]
    assert tfrecord.crc32c(messages).tolist() == [0xE3069283, 0x8A9136AA, 0x62A8AB43, 0x46DD794E, 0]


def test_tfrecord_round_trip_and_damage(tmp_path):
    records = [bytes([i % 256]) * (i % 7) for i in range(2500)]
    path = tmp_path / "x.tfrecord"
    tfrecord.write_records(path, records)
    assert list(tfrecord.read_records(path)) == records
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with pytest.raises(data.DataError, match=r"x\.tfrecord is damaged: the checksum of record"):
        list(tfrecord.read_records(path))


def run_program(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        command.main(prepare_cifar10.run, prepare_cifar10.Config, [str(a) for a in arguments])
    lines = capsys.readouterr().err.strip().splitlines()
    assert stop.value.code == 2
    assert len(lines) == 1
    return lines[0]


def test_archive_of_another_checksum(capsys, tmp_path):
    write_archive(tmp_path / "a.tar.gz")
    line = run_program(capsys, "--archive", tmp_path / "a.tar.gz", "--data-dir", tmp_path / "out")
    assert cifar10_archive.SHA256 in line
    assert "--allow-other-checksum" in line
    assert not (tmp_path / "out").exists()


def test_wrong_archives(capsys, tmp_path):
    out = ("--data-dir", tmp_path / "out", "--allow-other-checksum", "--archive")
    assert "there is no archive" in run_program(capsys, *out, tmp_path / "none.tar.gz")
    write_archive(tmp_path / "a.tar.gz")
    content = (tmp_path / "a.tar.gz").read_bytes()
    (tmp_path / "cut.tar.gz").write_bytes(content[: len(content) // 2])
    assert "cut.tar.gz is cut short" in run_program(capsys, *out, tmp_path / "cut.tar.gz")
    (tmp_path / "text.tar.gz").write_bytes(gzip.compress(b"no archive" * 100))
    assert "text.tar.gz is cut short, damaged or no .tar.gz archive" in run_program(
        capsys, *out, tmp_path / "text.tar.gz"
    )
    write_archive(tmp_path / "part.tar.gz", leave_out="data_batch_3.bin")
    assert "it has no cifar-10-batches-bin/data_batch_3.bin" in run_program(capsys, *out, tmp_path / "part.tar.gz")
    assert not (tmp_path / "out").exists()


def test_an_archive_that_unpacks_to_far_more_is_refused_before_that(tmp_path):
    with tarfile.open(tmp_path / "bomb.tar.gz", "w:gz") as archive:
        info = tarfile.TarInfo("zeros")
        info.size = 1 << 30  # the header alone: nobody asks for the rest
        archive.fileobj.write(info.tobuf())
    with pytest.raises(data.DataError, match="unpacks to over"):
        cifar10_archive.read_archive(tmp_path / "bomb.tar.gz")


def test_registered_checksum_is_that_of_tfds():
    import tensorflow_datasets as tfds

    listed = (Path(tfds.__file__).parent / "url_checksums" / "cifar10.txt").read_text().split("\t")
    assert (listed[0], listed[2]) == (cifar10_archive.URL, cifar10_archive.SHA256)


def test_download_is_verified(tmp_path):
    write_archive(tmp_path / "other.tar.gz")
    target = tmp_path / "cifar-10-binary.tar.gz"
    with pytest.raises(data.DataError, match="gave a file with SHA-256"):
        cifar10_archive.download(target, print, url=(tmp_path / "other.tar.gz").as_uri())
    with pytest.raises(data.DataError, match=r"cannot download .* --archive"):
        cifar10_archive.download(target, print, url=(tmp_path / "none.tar.gz").as_uri())
    assert sorted(file.name for file in tmp_path.iterdir()) == ["other.tar.gz"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cifr10", "unknown data set 'cifr10': did you mean cifar10"),
        ("digit", "did you mean digits"),
        ("", "unknown data set ''"),
        ("cifar10", r"get it by: python -m experiments\.prepare_cifar10 --data-dir "),
        ("mnist", r"tfds\.builder\('mnist', data_dir=.*\)\.download_and_prepare\(\)"),
    ],
)
def test_name_without_data(name, message, tmp_path):
    with pytest.raises(data.DataError, match=message) as caught:
        data.load_dataset(name, str(tmp_path))
    assert "\n" not in str(caught.value)


def test_version_that_is_not_there(prepared):
    _, directories = prepared
    with pytest.raises(data.DataError, match=r"but cifar10/3\.0\.2 is"):
        data.load_dataset("cifar10:9.9.9", str(directories["tfrecord"]))


def test_digits():
    digits = data.load_dataset("digits")
    parts = [digits.train.targets, digits.valid.targets, digits.test.targets]
    assert [len(part) for part in parts] == [1077, 360, 360]
    # scikit-learn's page on the set: 174 to 183 images a class, intensities 0 to 16.
    assert np.bincount(np.concatenate(parts)).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    images = np.concatenate([digits.train.inputs, digits.valid.inputs, digits.test.inputs])
    assert images.shape == (1797, 8, 8, 1)
    assert sorted(np.unique(images)) == [15 * i for i in range(17)]
    for part in parts:
        expected = np.bincount(np.concatenate(parts)) * len(part) / 1797
        assert np.abs(np.bincount(part) - expected).max() < 1.5
    with np.load(Path(dataset.__file__).parent / "digits.npz") as stored:
        assert sorted(stored["source_index"]) == list(range(1797))
    assert (digits.augmentation.shift, digits.augmentation.flip, digits.augmentation.cutout) == (1, False, 0)


def write_folder(root, parts, classes=("ant", "bee"), count=5, mode="RGB", side=6):
    random = np.random.RandomState(1)
    for part in parts:
        for name in classes:
            (root / part / name).mkdir(parents=True)
            for i in range(count):
                shape = (side, side, 3) if mode == "RGB" else (side, side)
                pixels = random.randint(0, 256, shape).astype(np.uint8)
                Image.fromarray(pixels).save(root / part / name / f"{i}.png")


def test_folder_with_test_split(tmp_path):
    write_folder(tmp_path, ["train", "test", "valid"])
    (tmp_path / "train" / "ant" / "notes.txt").write_text("no image")
    found = data.load_dataset(f"folder:{tmp_path}")
    assert found.class_names == ("ant", "bee")
    assert found.train.inputs.shape == found.test.inputs.shape == (10, 6, 6, 3)
    assert found.valid.inputs.shape == (10, 6, 6, 3)
    np.testing.assert_array_equal(found.train.targets, [0] * 5 + [1] * 5)
    np.testing.assert_array_equal(found.test.inputs[7], np.asarray(Image.open(tmp_path / "test" / "bee" / "2.png")))


def test_folder_without_test_split(tmp_path):
    write_folder(tmp_path, [""], mode="L", count=10)
    found, again = data.load_dataset(str(tmp_path)), data.load_dataset(f"folder:{tmp_path}")
    assert found.train.inputs.shape == (16, 6, 6, 1)
    assert np.bincount(found.test.targets).tolist() == [2, 2]
    np.testing.assert_array_equal(found.test.inputs, again.test.inputs)
    assert not {i.tobytes() for i in found.train.inputs} & {i.tobytes() for i in found.test.inputs}


def test_a_fingerprint_is_of_the_pixels_and_not_of_their_files(tmp_path):
    first = tmp_path / "first"
    write_folder(first, ["train", "test", "valid"])
    known = data.fingerprint(data.load_dataset(f"folder:{first}"))
    counts = {"train_images": 10, "valid_images": 10, "test_images": 10}
    assert {**known, "checksum": ""} == {
        "source": "folder", **counts, "shape": [6, 6, 3], "classes": ["ant", "bee"], "checksum": ""
    }  # fmt: skip

    def changed(change):
        shutil.rmtree(tmp_path / "other", ignore_errors=True)
        shutil.copytree(first, tmp_path / "other")
        change(tmp_path / "other")
        return data.fingerprint(data.load_dataset(f"{tmp_path}/other/"))

    def save_otherwise(root):
        for file in root.rglob("*.png"):
            Image.open(file).save(file.with_suffix(".bmp"))
            file.unlink()

    def one_pixel(root):
        pixels = np.array(Image.open(root / "valid" / "bee" / "3.png"))
        pixels[5, 5, 2] ^= 1
        Image.fromarray(pixels).save(root / "valid" / "bee" / "3.png")

    def swap_labels(root):
        for old, new in (("ant", "x"), ("bee", "ant"), ("x", "bee")):
            (root / "test" / old).rename(root / "test" / new)

    def one_label(root):  # the last of one class becomes the first of the other
        (root / "train" / "ant" / "4.png").rename(root / "train" / "bee" / "-.png")

    def rename_a_class(root):
        for part in ("train", "valid", "test"):
            (root / part / "bee").rename(root / part / "wasp")

    def one_fewer(root):
        (root / "train" / "bee" / "4.png").unlink()

    (tmp_path / "link").symlink_to(first)
    assert data.fingerprint(data.load_dataset(f"{tmp_path}/link")) == known
    assert changed(save_otherwise) == known
    for change, entries in (
        (one_pixel, {"checksum"}),
        (swap_labels, {"checksum"}),
        (one_label, {"checksum"}),
        (rename_a_class, {"classes"}),
        (one_fewer, {"train_images", "checksum"}),
    ):
        other = changed(change)
        assert {name for name in known if other[name] != known[name]} == entries


def test_folder_of_different_sizes(tmp_path):
    write_folder(tmp_path, ["train"])
    write_folder(tmp_path, ["test"], side=9)
    with pytest.raises(data.DataError, match=r"test images are \(9, 9, 3\) and train images .* by --size 32"):
        data.load_dataset(f"folder:{tmp_path}")
    Image.fromarray(np.zeros((9, 6, 3), np.uint8)).save(tmp_path / "train" / "bee" / "9.png")
    with pytest.raises(data.DataError, match=r"different sizes, 6x6 and 9x6: .* by --size 32"):
        data.load_dataset(f"folder:{tmp_path}")
    assert data.load_dataset(f"folder:{tmp_path}", size=8).train.inputs.shape == (11, 8, 8, 3)
    assert data.load_dataset(f"folder:{tmp_path}", size=(4, 7)).test.inputs.shape == (10, 4, 7, 3)
    with pytest.raises(data.DataError, match="1 to 4096 pixels, got 0x7"):
        data.load_dataset(f"folder:{tmp_path}", size=(0, 7))


@pytest.mark.parametrize("name", ["val", "Validation", "dev", "eval", "valid"])
def test_folder_with_a_validation_split_of_any_name(tmp_path, name):
    write_folder(tmp_path, ["Train", name, "extra"], count=10)
    (tmp_path / "Train" / "ant" / "more").mkdir()
    (tmp_path / "Train" / "ant" / "notes.txt").touch()
    found = data.load_dataset(str(tmp_path))
    assert found.summary() == {
        "images": {"train": 16, "valid": 20, "test": 4},
        "origins": {"train": "Train but for a fifth", "valid": name, "test": "a fifth of Train"},
        "not_read": ["extra/", f"1 .txt in {tmp_path / 'Train'}", f"1 folder in {tmp_path / 'Train'}"],
        "classes": 2,
        "image_shape": [6, 6, 3],
    }
    assert f"images 16 train (Train but for a fifth), 20 valid ({name}), 4 test (a fifth of Train)" in found.told()
    assert "not read: extra/, 1 .txt" in found.told()
    shutil.rmtree(tmp_path / "Train")
    with pytest.raises(data.DataError, match=f"has {name}, but no folder train"):
        data.load_dataset(str(tmp_path))


def test_folder_with_what_systems_leave_in_it(tmp_path):
    write_folder(tmp_path, ["."])
    (tmp_path / "__MACOSX" / "ant").mkdir(parents=True)
    shutil.copy(tmp_path / "ant" / "0.png", tmp_path / "__MACOSX" / "ant" / "0.png")
    (tmp_path / "ant" / "._0.png").write_bytes(b"\x00\x05\x16\x07" + bytes(60))
    found = data.load_dataset(str(tmp_path))
    assert (found.class_names, found.not_read) == (("ant", "bee"), ())
    assert len(found.train.targets) + len(found.test.targets) == 10
    pipe = tmp_path / "ant" / "+.png"  # the first that is looked at
    os.mkfifo(pipe)
    for read in (lambda: data.load_dataset(str(tmp_path)), lambda: data.read_image(pipe, data.ImageForm(3))):
        with pytest.raises(data.DataError, match=r"\+\.png is no regular file"):
            read()


def test_no_class_is_left_without_a_training_image(tmp_path):
    write_folder(tmp_path, ["."], count=1)
    with pytest.raises(data.DataError, match="a fifth of the 2 training images cannot be kept for testing with an"):
        data.load_dataset(str(tmp_path))
    write_folder(tmp_path, ["."], classes=("cat", "dog"), count=4)
    found = data.load_dataset(str(tmp_path))
    assert np.bincount(found.train.targets).min() == 1
    train, valid = data.split(found, 0, 0.5)
    assert np.bincount(train.targets).min() == 1
    assert len(train.targets) + len(valid.targets) == len(found.train.targets) == 8
    with pytest.raises(data.DataError, match="8 training images of 4 classes: 6 of them cannot be kept"):
        data.split(found, 0, 0.75)


def test_wrong_folders(tmp_path):
    with pytest.raises(data.DataError, match="is no folder"):
        data.load_dataset(str(tmp_path / "none"))
    with pytest.raises(data.DataError, match="2 or more classes, has 0"):
        data.load_dataset(str(tmp_path))
    write_folder(tmp_path, ["train"])
    write_folder(tmp_path, ["test"], classes=("ant", "wasp"))
    with pytest.raises(data.DataError, match="has classes that the training split has not: wasp"):
        data.load_dataset(str(tmp_path))
    broken = tmp_path / "train" / "bee" / "0.png"
    broken.write_bytes(broken.read_bytes()[:60])
    (tmp_path / "test" / "wasp").rename(tmp_path / "test" / "bee")
    with pytest.raises(data.DataError, match=r"bee/0\.png cannot be decoded"):
        data.load_dataset(str(tmp_path))
    broken.write_bytes(b"text")
    with pytest.raises(data.DataError, match=r"bee/0\.png (is no image|cannot be decoded)"):
        data.load_dataset(str(tmp_path))


def test_arguments_that_would_have_no_effect_are_errors(tmp_path):
    with pytest.raises(data.DataError, match="data_dir is for data sets of TFDS"):
        data.load_dataset("digits", str(tmp_path))
    with pytest.raises(data.DataError, match="cannot be resized"):
        data.load_dataset("digits", size=16)


def test_prepared_again_says_so(prepared, capsys):
    _, directories = prepared
    directory = directories["tfrecord"]
    prepare_cifar10.run(prepare_cifar10.Config(data_dir=directory))
    assert "is there already" in capsys.readouterr().out
    info = json.loads((directory / "cifar10" / "3.0.2" / "dataset_info.json").read_text())
    assert info["moduleName"] == "tensorflow_datasets.image_classification.cifar"
