# shellcheck shell=bash
# Sourced by run.sh and test.sh. Makes the Python environment once and sets PYTHON to its interpreter.
#
#   BONEAGE_VENV             where the environment is                     (default: .venv beside setup.py)
#   BONEAGE_PYTHON           use this interpreter as it is; make nothing
#   BONEAGE_PYTHON_VERSION   make the environment with this Python: 3.11, 3.12 or 3.13
#                            (default: python3 where it is one of them, else the newest that runs)
#   BONEAGE_EXTRAS           extras of setup.py to add, e.g. gpu or gpu,tensorboard
#   BONEAGE_AOT_VENV         where the environment of `boneage fits` is    (default: .venv-aot, see with_compilers)
#
# An environment is ready when .ready-<hash of requirements.lock and setup.py> lies in it. That file is written
# last, so a half-made environment is never taken for a finished one.

unset CDPATH  # with it, cd may choose another folder and prints where it went
ROOT=$(cd -P -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
EXTRAS=${BONEAGE_EXTRAS:-}
MARK=.made-by-boneage_jax  # also the file that launches lock
VERSIONS='3.13 3.12 3.11'  # of Python, the newest first
NEEDED='Python 3.11, 3.12 or 3.13'
READY=

say() { printf '%s\n' "boneage_jax: $*" >&2; }
die() { say "$@"; exit 1; }

# Whether $1 runs and is a Python that the lock has wheels for: CPython with its global lock, of a version in $2.
# A pyenv shim can be on the PATH and fail, so only running it tells.
is_supported() {
    "$1" -c 'import sys, sysconfig
good = "%d.%d" % sys.version_info[:2] in sys.argv[1].split() and sys.implementation.name == "cpython"
sys.exit(not good or bool(sysconfig.get_config_var("Py_GIL_DISABLED")))' "$2" </dev/null >/dev/null 2>&1
}

# Prints what may be a Python of a version in $1, one a line, in the order of preference.
candidates() {
    local version folder
    echo python3
    for version in $1; do
        echo "python$version"
        for folder in "${PYENV_ROOT:-${HOME:-}/.pyenv}/versions/$version".*; do
            echo "${folder##*.} $folder/bin/python3"
        done | sort -rn | cut -d ' ' -f 2-  # the newest patch first
    done
    echo python
}

# Prints the first candidate of a version in $1 that can make environments. Where all lack the venv module,
# without_venv is one of them.
search_python() {
    local candidate
    while IFS= read -r candidate; do
        is_supported "$candidate" "$1" || continue
        if "$candidate" -c 'import ensurepip, venv' </dev/null >/dev/null 2>&1; then
            command -v "$candidate"
            return
        fi
        without_venv=${without_venv:-$candidate}
    done < <(candidates "$1")
    return 1
}

# What follows is a second environment, with XLA's compilers for NVIDIA GPUs and TPUs (gigabytes; versions in
# requirements-aot.lock). They need the current jax, thus Python 3.12 or 3.13.
with_compilers() {
    BONEAGE_VENV=${BONEAGE_AOT_VENV:-$ROOT/.venv-aot}
    EXTRAS=${EXTRAS:+$EXTRAS,}aot
    VERSIONS='3.13 3.12'
    NEEDED='Python 3.12 or 3.13'
}

find_python() {
    local versions=${BONEAGE_PYTHON_VERSION:-$VERSIONS} without_venv='' version
    case " $VERSIONS " in
        *" $versions "*) ;;
        *) die "BONEAGE_PYTHON_VERSION=$versions: this runs on $NEEDED." ;;
    esac
    search_python "$versions" && return
    if [ -n "$without_venv" ]; then
        version=$("$without_venv" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
        die "$without_venv cannot make environments: its venv module is missing. On Debian or Ubuntu:" \
            "sudo apt-get install python$version-venv"
    fi
    if [ -n "${BONEAGE_PYTHON_VERSION:-}" ]; then
        die "no Python $versions runs here: none is on the PATH and none in pyenv's folder. On Debian or Ubuntu:" \
            "sudo apt-get install python$versions python$versions-venv; or unset BONEAGE_PYTHON_VERSION."
    fi
    die "$NEEDED is needed; none on the PATH or in pyenv's folder runs. On Debian or Ubuntu:" \
        "sudo apt-get install python3.12 python3.12-venv (or the same of another of them, as the system has it);" \
        "or name one with BONEAGE_PYTHON=/path/to/python (with requirements.lock installed in it)."
}

fingerprint() {  # fails loudly where python cannot read the two files
    "$1" -c 'import hashlib, sys
print(hashlib.sha256(b"".join(open(f, "rb").read() for f in sys.argv[1:])).hexdigest()[:16])' \
        "$ROOT/requirements.lock" "$ROOT/setup.py"
}

pip_install() {  # pip's chatter goes to a log; on failure its last lines and the likely reason are shown
    local log=$VENV/install.log
    "$PYTHON" -m pip install --disable-pip-version-check --no-input "$@" >"$log" 2>&1 && return
    grep -E '^ERROR|No space left' "$log" | tail -n 5 >&2 || true
    if grep -qE 'NewConnectionError|ConnectTimeout|ReadTimeout|Temporary failure in name|ProxyError|SSLError|from versions: none' "$log"; then
        die "the package index could not be reached. Check the network, or the proxy (HTTPS_PROXY)," \
            "and run the same command again. The whole log: $log"
    fi
    die "installing failed; the whole log: $log. The same command starts over."
}

make_environment() {
    local extra
    for extra in ${EXTRAS//,/ }; do
        grep -q "^    '$extra': \[" "$ROOT/setup.py" || die "BONEAGE_EXTRAS: setup.py has no extra named '$extra'."
    done
    if [ -n "${BONEAGE_PYTHON:-}" ]; then
        PYTHON=$(command -v "$BONEAGE_PYTHON") || die "BONEAGE_PYTHON=$BONEAGE_PYTHON is not an executable file."
        case $PYTHON in /*) ;; *) PYTHON=$PWD/$PYTHON ;; esac
        "$PYTHON" -c 'import importlib.util as u, sys
missing = [m for m in ("jax", "flax", "optax", "grain", "tensorflow_datasets", "skimage", "sklearn") if not u.find_spec(m)]
sys.exit("not installed: " + ", ".join(missing) if missing else 0)' \
            || die "BONEAGE_PYTHON=$PYTHON cannot run this project: install requirements.lock there, or unset it."
        return
    fi

    VENV=${BONEAGE_VENV:-$ROOT/.venv}
    case $VENV in /*) ;; *) VENV=$PWD/$VENV ;; esac
    if [ -d "$VENV" ] && [ ! -e "$VENV/$MARK" ] && [ -n "$(ls -A "$VENV")" ]; then
        die "$VENV exists and was not made by this script, so it is left alone." \
            "Move it away, or name another place with BONEAGE_VENV=DIR, or use it with BONEAGE_PYTHON=$VENV/bin/python."
    fi
    if ! { mkdir -p "$VENV" && : >>"$VENV/$MARK"; }; then
        die "cannot write to $VENV; name another place with BONEAGE_VENV=DIR."
    fi

    # A running program holds the lock shared (it inherits descriptor 9); a launch that must change the
    # environment needs it alone. Systems without flock go unprotected.
    exec 9<"$VENV/$MARK"
    lock -s
    if ! is_ready; then
        lock -x
        is_ready || build_environment
        lock -s
    fi
    PYTHON=$VENV/bin/python
}

lock() {
    command -v flock >/dev/null || return 0
    flock "$1" -n 9 && return
    say "waits for another launch that makes or uses $VENV (BONEAGE_VENV=DIR names a second place)"
    flock "$1" 9
}

is_ready() {  # sets READY, the stamp that a finished environment carries
    [ -x "$VENV/bin/python" ] || return 1
    [ -z "${BONEAGE_PYTHON_VERSION:-}" ] || is_supported "$VENV/bin/python" "$BONEAGE_PYTHON_VERSION" || return 1
    READY=$VENV/.ready-$(fingerprint "$VENV/bin/python") || return 1
    [ -e "$READY" ] || return 1
    local extra
    for extra in ${EXTRAS//,/ }; do
        grep -qsx "$extra" "$VENV/.extras" || return 1
    done
}

build_environment() {
    local base started=$SECONDS
    # Extras that were there before come back, or a GPU machine would quietly fall back to its CPU.
    if [ -e "$VENV/.extras" ]; then EXTRAS=$(tr '\n' ',' <"$VENV/.extras")$EXTRAS; fi
    PYTHON=$VENV/bin/python
    if [ -z "$READY" ] || [ ! -e "$READY" ]; then
        base=$(find_python)
        say "makes the Python environment in $VENV with $base (once; about 2 minutes and 1.5 GB)"
        find "$VENV" -mindepth 1 -maxdepth 1 ! -name "$MARK" ! -name .extras -exec rm -rf {} +
        "$base" -m venv "$VENV" || die "$base -m venv $VENV failed (see above)"
        pip_install -r "$ROOT/requirements.lock"
        pip_install --no-deps --no-build-isolation --editable "$ROOT"
        READY=$VENV/.ready-$(fingerprint "$PYTHON")
    fi
    local extra
    : >"$VENV/.extras.new"
    for extra in ${EXTRAS//,/ }; do
        grep -qx "$extra" "$VENV/.extras.new" && continue
        say "adds the extra [$extra] (the gpu and tpu ones download a few GB)"
        # The locks as constraints: an extra may add packages, never move the tested versions.
        pip_install --no-build-isolation --constraint "$ROOT/requirements.lock" \
            --constraint "$ROOT/requirements-aot.lock" --editable "${ROOT}[$extra]"
        echo "$extra" >>"$VENV/.extras.new"
    done
    mv "$VENV/.extras.new" "$VENV/.extras"
    : >"$READY"
    say "environment ready after $((SECONDS - started)) s"
    if [ ! -s "$VENV/.extras" ] && nvidia-smi >/dev/null 2>&1; then
        say "this machine has an NVIDIA GPU; BONEAGE_EXTRAS=gpu in front of the command adds the build for it"
    fi
}
