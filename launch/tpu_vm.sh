#!/usr/bin/env bash
# One run on all hosts of a Cloud TPU slice.
#
#   launch/tpu_vm.sh TPU_NAME ZONE boneage_jax.main --config=... --workdir=/mnt/shared/runs/a
#
# Needs gcloud, logged in, with a project set. Copies the committed files to every host, makes the Python environment
# there and starts the run; the slice itself tells each process its place. The workdir and BONEAGE_CACHE must lie on a disk
# that all hosts see (Filestore, or a bucket mounted by gcsfuse). A run that stopped goes on with the same command, on a
# slice of any size.
set -euo pipefail

[ $# -gt 2 ] || { echo 'usage: launch/tpu_vm.sh TPU_NAME ZONE MODULE [ARGUMENT ...]' >&2; exit 2; }
name=$1 zone=$2
shift 2
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
ROOT=$(cd -P -- "$(dirname -- "$self")/.." && pwd -P)
packed=$(mktemp -d)
trap 'rm -rf "$packed"' EXIT
git -C "$ROOT" archive --format=tar.gz --output="$packed/boneage_jax.tar.gz" HEAD
settings=()
while IFS= read -r variable; do settings+=("$variable=${!variable}"); done < <(compgen -e | grep -E '^(BONEAGE|XLA|LIBTPU)_')
run=$(printf '%q ' env BONEAGE_EXTRAS=tpu "${settings[@]}" BONEAGE_COORDINATOR=auto launch/run.sh "$@")
gcloud compute tpus tpu-vm scp "$packed/boneage_jax.tar.gz" "$name:" --zone="$zone" --worker=all
gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all --command="mkdir -p boneage_jax && \
tar -xzf boneage_jax.tar.gz -C boneage_jax && cd ./boneage_jax && $run"
