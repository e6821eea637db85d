#!/usr/bin/env bash
# One run on the nodes of a Slurm job, one process a node with all of its GPUs.
#
#   sbatch --nodes=2 --gpus-per-node=8 --time=4:00:00 launch/slurm.sh boneage_jax.main --config=... --workdir=/shared/runs/a
#
# Submit from the project's folder, on a disk that all nodes see, like the workdir and BONEAGE_CACHE. Start launch/run.sh
# once on the login node first: it makes the Python environment (BONEAGE_EXTRAS=gpu). The same command goes on with a run
# that stopped, on as many nodes as there are then.
#SBATCH --job-name=boneage
#SBATCH --ntasks-per-node=1
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
# TERM@120: two minutes before the time is up the run saves and stops.
set -euo pipefail

[ $# -gt 0 ] || { echo 'usage: sbatch [--nodes=N] launch/slurm.sh MODULE [ARGUMENT ...]' >&2; exit 2; }
# Slurm runs a copy of this file from elsewhere, so the folder of submission says where the project is.
cd "${SLURM_SUBMIT_DIR:?is missing: submit this script with sbatch}"
[ -x launch/run.sh ] || { echo "launch/slurm.sh: $PWD is not the project's folder: submit from there" >&2; exit 2; }
read -r first < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
export BONEAGE_COORDINATOR=$first:$((20000 + SLURM_JOB_ID % 20000))  # a port for each job: nodes may be shared
export BONEAGE_PROCESSES=$SLURM_JOB_NUM_NODES
# SLURM_PROCID is known in the step alone, hence the inner shell; exec: signals reach Python.
# shellcheck disable=SC2016
exec srun --ntasks-per-node=1 --kill-on-bad-exit=1 bash -c 'BONEAGE_PROCESS=$SLURM_PROCID exec launch/run.sh "$@"' run "$@"
