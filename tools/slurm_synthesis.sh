#!/usr/bin/env bash
# One process a GPU, on as many hosts as the queue gives; adapt the first lines to your cluster, then
#
#     SCALE=paper DATA=/datasets ROOT=/shared/runs sbatch tools/slurm_synthesis.sh
#
# ROOT must lie on a file system that all hosts share and whose locks work (NFS 4; Lustre mounted with flock). The
# processes share the batches of contexts and synthesis and wait for nobody: a task that dies, or starts an hour later,
# stops no other, and what is finished stays. Only the list of images and their selection are made by one task; to spare
# the GPUs the wait, run `synood run selection --scale paper --data DATA --root ROOT` first. Submit it again to go on.
# STAGE=contexts shares the questions to the vision-language model in the same way.
#SBATCH --job-name=synood
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-task=1
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --output=synood-%j.log
set -euo pipefail

export SCALE=${SCALE:-paper} ROOT=${ROOT:-runs} STAGE=${STAGE:-synthesis} DATA=${DATA:-}

srun --kill-on-bad-exit=0 bash -c '
    export RANK=$SLURM_PROCID WORLD_SIZE=$SLURM_NTASKS LOCAL_RANK=$SLURM_LOCALID
    exec synood run "$STAGE" --scale "$SCALE" ${DATA:+--data "$DATA"} --root "$ROOT"'
