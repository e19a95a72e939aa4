#!/usr/bin/env bash
# Every table and figure on as many hosts as the queue gives: starts a Ray cluster on them and hands it `reproduce`.
# Adapt the first lines and the environment to your cluster. The order of commands, from a checkout on the shared disk:
#
#     python3 -m venv .venv && source .venv/bin/activate && pip install -c constraints.txt -e '.[cluster]'
#     synood doctor --scale paper --data /datasets      on a login node: what is missing, and where it comes from
#     synood fetch-models --scale paper                 there, as the hosts of the queue may have no network
#     SCALE=paper DATA=/datasets ROOT=/shared/runs sbatch tools/slurm.sh
#
# ROOT, DATA, the checkout and the models' folder (HF_HOME) must lie on a file system that all hosts share. A host that
# is lost stops nothing, unless it is the first, where the command runs: the others do its work. Submit the same line
# again to go on after the time limit.
#SBATCH --job-name=synood
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-task=8
#SBATCH --cpus-per-task=64
#SBATCH --exclusive
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --no-kill
#SBATCH --output=synood-%j.log
set -euo pipefail

export SCALE=${SCALE:-paper} ROOT=${ROOT:-runs} DATA=${DATA:-} VENV=${VENV:-.venv}
source "$VENV/bin/activate"

export RAY_AUTH_MODE=token  # nobody else may give the cluster work: the token lies in your home, which the hosts share
ray get-auth-token --generate >/dev/null
export RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=600  # seconds for all hosts to start; a shared disk may be slow
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed -n 1p)

srun --kill-on-bad-exit=0 ray symmetric-run --address "$head:6379" --min-nodes "$SLURM_JOB_NUM_NODES" -- \
    synood reproduce --scale "$SCALE" ${DATA:+--data "$DATA"} --root "$ROOT" --cluster auto
