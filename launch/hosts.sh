#!/usr/bin/env bash
# One run on a plain list of hosts, over ssh.
#
#   launch/hosts.sh gpu1,gpu2 boneage_jax.main --config=... --workdir=/shared/runs/a
#
# The project lies at the same path on each host, the workdir and BONEAGE_CACHE on a disk that all see; ssh asks for no
# password. The first host coordinates, on port BONEAGE_PORT (12355). Ctrl-C here, or the end of this script however it
# comes, stops the run in an orderly way: it saves. Every BONEAGE_ and XLA_ variable set here is set there.
set -euo pipefail

[ $# -gt 1 ] || { echo 'usage: launch/hosts.sh HOST[,HOST ...] MODULE [ARGUMENT ...]' >&2; exit 2; }
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
IFS=, read -ra hosts <<<"$1"
shift
export BONEAGE_COORDINATOR=${hosts[0]#*@}:${BONEAGE_PORT:-12355} BONEAGE_PROCESSES=${#hosts[@]}
settings=()
while IFS= read -r name; do settings+=("$name=${!name}"); done < <(compgen -e | grep -E '^(BONEAGE|XLA)_')

# A pipe that this script alone holds open: however it ends, every ssh below then comes to the end of its input.
pipe=$(mktemp -d)
mkfifo "$pipe/open"
exec 8<>"$pipe/open" 7<"$pipe/open"
rm -r "$pipe"

pids=()
for i in "${!hosts[@]}"; do
    run=$(printf '%q ' env "${settings[@]}" "BONEAGE_PROCESS=$i" launch/run.sh "$@")
    # There, the end of the connection (of `cat`) is what stops the run: SIGTERM, on which it saves.
    # shellcheck disable=SC2029
    ssh -o BatchMode=yes "${hosts[i]}" "exec 3<&0; cd $(printf %q "$ROOT") || exit; $run </dev/null 3<&- & child=\$!
        { cat <&3; kill \$child; } >/dev/null 2>&1 & wait \$child; status=\$?; kill \$!; exit \$status" \
        > >(exec sed -u "s/^/${hosts[i]##*@}: /" 8>&-) 2>&1 <&7 7<&- 8>&- &
    pids+=($!)
done

status=0
for i in "${!hosts[@]}"; do
    wait "${pids[i]}" || { status=$?; echo "launch/hosts.sh: ${hosts[i]} ended with status $status" >&2; }
done
exit "$status"
