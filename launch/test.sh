#!/usr/bin/env bash
# Runs the tests (arguments go to pytest) in the environment of launch/run.sh, in two processes. Fails when no test ran.
set -euo pipefail

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
make_environment
cd "$ROOT"
# worksteal: the other ways of pytest-xdist to keep a file's tests together (loadfile) hang for ever where a process dies.
exec "$PYTHON" -m pytest -n 2 --dist worksteal "$@"
