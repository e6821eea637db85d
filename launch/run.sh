#!/usr/bin/env bash
# Runs a module of this project in its own Python environment, which the first call makes.
set -euo pipefail

usage() {
    cat >&2 <<'TEXT'
usage: launch/run.sh MODULE [ARGUMENT ...]

  launch/run.sh boneage_jax.main --config=configs/prsnet.py:phantom --workdir=runs/first
  launch/run.sh boneage_jax.prepare --config=configs/prsnet.py:rsna100

Needs Python 3.11, 3.12 or 3.13; the first call makes .venv (2 minutes). Paths are relative to the project's folder.
boneage_jax.fits compiles for accelerators: its first call makes .venv-aot, with the compilers (Python 3.12 or 3.13).

  BONEAGE_EXTRAS=gpu    adds the build for NVIDIA GPUs (gpu13: CUDA 13; tpu; tensorboard; serve; dicom is always there)
  BONEAGE_DATA=DIR      where the radiographs lie
  BONEAGE_CACHE=DIR     where prepared records go     (default: ~/.cache/boneage_jax)
  BONEAGE_VENV=DIR      where the environment lies    (default: .venv)
  BONEAGE_PYTHON=FILE   use this interpreter instead of making an environment
  BONEAGE_PYTHON_VERSION=3.12
                        make the environment with this version (default: that of python3 if it is one of the three,
                        else the newest that runs)
TEXT
}

case ${1:-} in
    '') usage; exit 2 ;;
    -h | --help) usage; exit 0 ;;
esac

# The folder of this file, also where it was called through a symbolic link. With CDPATH, cd goes elsewhere and prints.
unset CDPATH
self=${BASH_SOURCE[0]}
while [ -L "$self" ]; do
    target=$(readlink "$self")
    case $target in
        /*) self=$target ;;
        *) self=$(dirname -- "$self")/$target ;;
    esac
done
# shellcheck source=launch/environment.sh
. "$(dirname -- "$self")/environment.sh"
case $1 in boneage_jax.fits | benchmarks.accelerators) with_compilers ;; esac
make_environment
[ "$(pwd -P)" = "$ROOT" ] || say "runs in $ROOT; relative paths start there"
cd "$ROOT"
exec "$PYTHON" -m "$@"  # exec: Ctrl-C and SIGTERM reach Python, which saves a checkpoint
