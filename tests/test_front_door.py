"""What a user meets first: the names of `jaxnas`, what importing it costs, and the command of an installed package."""

import ast
import importlib
import json
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import jaxnas
from jaxnas import __main__ as entry

HEAVY = ("orbax", "tensorstore", "PIL", "matplotlib", "tyro", "scipy", "tensorflow_datasets")


def loaded_by(program):
    """The modules that a new interpreter has after a program, and how long the program took."""
    told = (
        f"import sys, time; start = time.perf_counter(); {program}; "
        "import json; print(json.dumps([time.perf_counter() - start, sorted(sys.modules)]))"
    )
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_the_import_loads_nothing_heavy_and_takes_no_longer_than_what_it_stands_on():
    seconds, modules = loaded_by("import jax, flax, optax, jaxnas; jaxnas.Skeleton")
    below, _ = loaded_by("import jax, flax, optax")
    assert not [name for name in modules if name.partition(".")[0] in HEAVY]
    assert seconds < 1.3 * below + 0.5


MODULES = """
import importlib, pkgutil
import experiments, jaxnas
for package in (jaxnas, experiments):
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
import jax
from jaxnas.fit import devices
devices._cores = lambda: 3
devices.join(devices.Devices())
print(jax.local_device_count())
"""


def test_no_import_starts_a_backend_so_that_cores_become_devices():
    ran = subprocess.run(
        [sys.executable, "-c", MODULES], cwd=Path(__file__).parents[1], capture_output=True, text=True, check=True
    )
    assert ran.stdout.split()[-1] == "3"


def test_every_name_is_there_once_and_where_it_is_said_to_be():
    tree = ast.parse(Path(jaxnas.__file__).read_text(encoding="utf-8"))
    typed = {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("jaxnas")
        for alias in node.names
    }
    assert typed == set(jaxnas.__all__) == set(jaxnas._HOME)
    for name in jaxnas.__all__:
        assert getattr(jaxnas, name) is not None
    for package in jaxnas._PACKAGES:
        assert getattr(jaxnas, package).__name__ == f"jaxnas.{package}"
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = jaxnas.nothing


def test_the_command_lists_the_programs_and_refuses_others(capsys):
    entry.main([])
    listed = capsys.readouterr().out
    folder = Path(__file__).parents[1] / "experiments"
    files = {path.stem for path in folder.glob("*.py")} - {"__init__", "common", "models"}
    assert {line.split()[0] for line in listed.splitlines()[2:-2]} == files
    with pytest.raises(SystemExit) as stopped:
        entry.main(["nothing"])
    assert stopped.value.code == 2
    assert "there is no program 'nothing'" in capsys.readouterr().err


def test_the_command_runs_the_program_of_the_clone():
    def told(*command):
        return subprocess.run(command, capture_output=True, text=True, check=False)

    by_command = told(sys.executable, "-m", "jaxnas", "predict", "--run", "nowhere", "image.png")
    by_module = told(sys.executable, "-m", "experiments.predict", "--run", "nowhere", "image.png")
    assert by_command.returncode == by_module.returncode == 2
    assert by_command.stderr.replace("jaxnas predict", "experiments.predict") == by_module.stderr


def test_no_two_public_functions_have_one_name():
    found = {}
    for module in pkgutil.iter_modules(jaxnas.__path__):
        if module.name in ("__main__", "programs"):
            continue
        package = importlib.import_module(f"jaxnas.{module.name}")
        for name in getattr(package, "__all__", ()):
            found.setdefault(name, set()).add(id(getattr(package, name)))
    for name in jaxnas.__all__:
        found.setdefault(name, set()).add(id(getattr(jaxnas, name)))
    assert not {name for name, objects in found.items() if len(objects) > 1}
