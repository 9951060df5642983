"""The measurement of an accelerator: processes that go wrong, what is packed, and what is read off a profile."""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import kernels
from benchmarks.accelerator import PARTS, Results, Runner
from benchmarks.accelerator_ours import judge
from benchmarks.accelerator_pack import pack_images, pack_table, read_images
from benchmarks.kernels import Kernel
from jaxnas.data import load_dataset
from jaxnas.spaces import nasbench201_space

ROOT = Path(__file__).parent.parent


def lines(out):
    return [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]


def test_without_a_gpu_it_says_so_and_measures_nothing(tmp_path):
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHON": sys.executable}
    run = subprocess.run(
        [ROOT / "benchmarks" / "accelerator.sh", "--out", tmp_path, "--files", tmp_path / "none"],
        env=environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    machine, told = lines(tmp_path)
    assert run.returncode == 1
    assert [json.loads(line) for line in run.stdout.splitlines()] == [machine, told]
    assert (machine["part"], machine["versions"]["jax"]) == ("machine", jax.__version__)
    assert (told["part"], told["side"]) == ("jax", "ours")
    assert "JAX sees no GPU, its first device is cpu" in told["error"]


@pytest.fixture
def runner(tmp_path):
    args = argparse.Namespace(dry=True, seconds=60.0, files=str(tmp_path), out=str(tmp_path))
    results = Results(tmp_path)
    runner = Runner(args, results, str(tmp_path / "cache"))
    # In the place of parts: what they may do.
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "accelerator_ours.py").write_text(
        "import json, subprocess, sys, time\n"
        "part = sys.argv[sys.argv.index('--part') + 1]\n"
        "print(json.dumps({'seconds': 0.1234567, 'flags': sys.argv[9:]}), flush=True)\n"
        "if part == 'jax':\n"
        "    print('no JSON', flush=True)\n"
        "    subprocess.Popen(['sleep', '60'])\n"
        "elif part == 'seeds':\n"
        "    time.sleep(60)\n"
        "elif part == 'search':\n"
        "    raise SystemExit('a fault of the card')\n"
        "print(json.dumps({'done': True}), flush=True)\n"
    )
    runner.environment["PYTHONPATH"] = str(tmp_path)
    yield runner
    results.close()


def test_a_part_that_hangs_or_fails_leaves_what_it_has_told_and_the_next_one_goes_on(runner, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    by_name = {part.name: part for part in PARTS}
    hanging = by_name["seeds"]._replace(limits={"ours": 1})
    runner.args.dry = False
    runner.prepare([by_name["enas_child"]])
    runner.run([(part, "ours") for part in (by_name["jax"], hanging, by_name["search"], by_name["enas_child"])], 1)
    runner.deadline = 0.0
    runner.run([(by_name["profile"], "ours")], 1)
    told = [
        (line["part"], *(line[key] for key in ("seconds", "error", "skipped") if key in line))
        for line in lines(tmp_path)
    ]
    assert told == [
        ("enas_child", 0.12346),
        ("jax", 0.12346),
        ("seeds", 0.12346),
        ("seeds", "stopped after 1 s"),
        ("search", 0.12346),
        ("search", "exit code 1: a fault of the card"),
        ("enas_child", 0.12346),
        ("profile", "no time is left"),
    ]
    assert [line["flags"] for line in lines(tmp_path) if line["part"] == "enas_child"] == [
        ["--compile-only"],
        ["--compiled"],
    ]
    assert "no JSON" in (tmp_path / "log.txt").read_text()
    assert runner.results.failed == ["seeds ours: stopped after 1 s", "search ours: exit code 1: a fault of the card"]
    assert not runner.running


def test_packed_images_come_back_in_disjoint_halves(tmp_path):
    digits = load_dataset("digits")
    pack_images(digits, 200, tmp_path / "images.npz")
    halves, augmentation = read_images(tmp_path / "images.npz")
    assert len(halves.train.targets) == len(halves.valid.targets) == 100
    assert abs(np.bincount(halves.train.targets) - np.bincount(halves.valid.targets)).max() <= 1
    known = {image.tobytes(): label for image, label in zip(digits.train.inputs, digits.train.targets, strict=True)}
    packed = [*zip(*halves.train, strict=True), *zip(*halves.valid, strict=True)]
    assert all(known[image.tobytes()] == label for image, label in packed)
    assert len({image.tobytes() for image, _ in packed}) == 200
    assert (augmentation.shift, augmentation.flip) == (1, False)


def test_a_cell_is_judged_by_the_packed_table(tmp_path):
    space = nasbench201_space()
    archs = np.array([[0] * 6, [1] * 6, [3] * 6], np.int32)
    rows = [
        f"{space.notation(arch)},{value},{value - 1}" for arch, value in zip(archs, (10.0, 90.0, 94.0), strict=True)
    ]
    (tmp_path / "cells.csv").write_text("\n".join(["arch_str,c10_val_12,c10_test_200", *rows]) + "\n")
    pack_table(tmp_path / "cells.csv", tmp_path / "table.npz")
    told = judge(tmp_path / "table.npz")(jnp.asarray(archs[1]))
    assert told["cell"] == space.notation(archs[1])
    assert told["c10_val"] == {"cell": 90.0, "best": 94.0, "better_cells": 1}
    assert told["c10_test"] == {"cell": 89.0, "best": 93.0, "better_cells": 1}
    assert judge(tmp_path / "none.npz")(jnp.asarray(archs[0])) == {"cell": space.notation(archs[0])}


def test_a_profile_is_summed_up_for_a_step():
    """Two steps of 500 ns: a kernel of two numbers, one beside another, and 100 ns in which there is none."""
    step = [Kernel("loop_fusion_1", 0, 200), Kernel("gemm", 100, 200), Kernel("loop_fusion_12", 400, 100)]
    twice = [k._replace(start=k.start + offset) for offset in (0, 500) for k in step]
    text = '  %loop_fusion.1 = f32[2]{0} fusion(%x), metadata={op_name="jit(step)/add"}\n  ROOT %gemm = f32[] dot(%x)'
    told = kernels.summary(twice, 2, text, most=2)
    assert (told["launches"], told["step_s"], told["idle"]) == (3, 0.0, 0.2)
    assert told["heaviest"] == [
        {"name": "loop_fusion_1", "share": 0.4, "us": 0.2, "launches": 1, "is": "f32[2]{0} jit(step)/add"},
        {"name": "gemm", "share": 0.4, "us": 0.2, "launches": 1, "is": "f32[]"},
    ]
    assert [(kind["name"], kind["launches"]) for kind in told["kinds"]] == [("loop_fusion", 2), ("gemm", 1)]


def test_the_kernels_of_a_program_are_read_off_its_profile(tmp_path):
    run = jax.jit(lambda x: jnp.sum(jnp.sin(x @ x)))
    x = jnp.ones((50, 50))
    run(x).block_until_ready()
    with jax.profiler.trace(str(tmp_path)):
        run(x).block_until_ready()
    found = kernels.traced(tmp_path)
    assert 1 <= len(found) < 20
    assert all(kernel.duration > 0 for kernel in found)
    assert [kernel.start for kernel in found] == sorted(kernel.start for kernel in found)
    with pytest.raises(ValueError, match="no kernel is in the profile"):
        kernels.traced(tmp_path / "none")
