#!/usr/bin/env bash
# Runs the tests (arguments go to pytest) in the environment of launch/run.sh, in two processes. Fails when no test ran.
set -euo pipefail

# shellcheck source=launch/environment.sh
. "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
make_environment
cd "$ROOT"
exec "$PYTHON" -m pytest -n 2 --dist loadfile --no-loadscope-reorder "$@"
