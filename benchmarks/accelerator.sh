#!/usr/bin/env bash
# Measures an accelerator within nine minutes, on a bare machine with one NVIDIA GPU and without a network:
#
#   benchmarks/accelerator.sh --pack DIR --data-dir DATA [--table CSV]     before, where there is a network
#   benchmarks/accelerator.sh [--files DIR] [--out DIR] [--seconds N] [--parts NAME …]
#   benchmarks/accelerator.sh --dry                                        every part in a tiny size, on a CPU
#
# DIR is .accelerator by default. PYTHON is the interpreter, python3 by default; on the machine it is Python 3.12 with
# JAX, flax, optax and chex, and with PyTorch for its side. What else is missing there is taken from DIR. See
# benchmarks/accelerator.py.
set -euo pipefail
started=$SECONDS
caller=$PWD
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
files=.accelerator
at() { case $1 in /*) echo "$1" ;; *) echo "$caller/$1" ;; esac; }

if [ "${1:-}" = --pack ]; then
  [ $# -ge 2 ] || { echo "usage: $0 --pack DIR --data-dir DATA [--table CSV]" >&2; exit 2; }
  files=$(at "$2")
  shift 2
  rm -f "$files"/*.whl
  "$python" -m benchmarks.accelerator_pack --pack "$files" "$@"
  platforms=()
  for glibc in 2_28 2_27 2_26 2_24 2_17; do platforms+=(--platform "manylinux_${glibc}_x86_64"); done
  "$python" -m pip download --quiet --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
    "${platforms[@]}" --platform manylinux2014_x86_64 --dest "$files" \
    tyro docstring-parser typeguard typing-extensions pillow rich markdown-it-py mdurl pygments
  copy=$(mktemp -d)
  trap 'rm -rf "$copy"' EXIT
  git archive HEAD | tar -x -C "$copy"
  "$python" -m pip wheel --quiet --no-deps --wheel-dir "$files" "$copy"
  du -sh "$files"
  exit
fi

seconds=540
arguments=()
while [ $# -gt 0 ]; do
  case $1 in
    --files) files=$(at "${2:?--files needs a folder}"); shift 2 ;;
    --out) arguments+=(--out "$(at "${2:?--out needs a folder}")"); shift 2 ;;
    --seconds) seconds=${2:?--seconds needs a number}; shift 2 ;;
    *) arguments+=("$1"); shift ;;
  esac
done

# The wheels of what this Python has not got.
missing=$("$python" - "$files"/*.whl <<'END'
import importlib.metadata
import pathlib
import sys

for wheel in map(pathlib.Path, sys.argv[1:]):
    try:
        importlib.metadata.version(wheel.name.split("-")[0])
    except importlib.metadata.PackageNotFoundError:
        if wheel.exists():
            print(wheel)
END
)
site=$(mktemp -d)
trap 'rm -rf "$site"' EXIT
if [ -n "$missing" ]; then
  mapfile -t wheels <<<"$missing"
  "$python" -m pip install --quiet --no-index --no-deps --no-compile --no-cache-dir --target "$site" "${wheels[@]}"
fi
export PYTHONPATH="$PWD:$site${PYTHONPATH:+:$PYTHONPATH}"
"$python" -m benchmarks.accelerator --files "$files" --seconds $((seconds - SECONDS + started)) "${arguments[@]}"
