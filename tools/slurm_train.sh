#!/usr/bin/env bash
# Train on a Slurm cluster:
#   [GPUS=8] [GPUS_PER_NODE=8] [CPUS_PER_TASK=5] [GRES=gpu:8] [SRUN_ARGS=...] \
#   tools/slurm_train.sh PARTITION JOB_NAME CONFIG WORK_DIR [flags of tools/train.py]
# GPUS is the number of processes. GRES=none is for partitions without GPUs, and the default there.
#
# As a batch job, which goes on by itself after preemption and at its time limit:
#   sbatch -p PARTITION --ntasks=8 --ntasks-per-node=8 --cpus-per-task=5 --gres=gpu:8 --time=24:00:00 \
#       tools/slurm_train.sh PARTITION JOB_NAME CONFIG WORK_DIR [flags of tools/train.py]
# SIGTERM saves a checkpoint, and the job queues again and resumes from it; REQUEUE=0 switches this
# off. sbatch reads the next lines; flags on its command line override them.
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=TERM@120
set -euo pipefail

if [ $# -lt 4 ]; then
    sed -n '2,11s/^# *//p' "$0" >&2
    exit 2
fi
PARTITION=$1
JOB_NAME=$2
CONFIG=$3
WORK_DIR=$4
HERE=$(cd "$(dirname "$0")" && pwd)
if [ ! -e "$HERE/slurm_run.sh" ]; then
    # sbatch runs a copy of this file. Slurm knows where it came from.
    HERE=$(scontrol show job "${SLURM_JOB_ID-}" | sed -n 's/^ *Command=//p')
    HERE=${HERE%%/slurm_train.sh*}
fi
# shellcheck source=tools/slurm_run.sh
. "$HERE/slurm_run.sh"
export PYTHONPATH="$HERE/..:${PYTHONPATH-}"

COMMAND=(python -u "$HERE/train.py" "$CONFIG" --work-dir="$WORK_DIR" --launcher=slurm "${@:5}")
checkpoints() { find "$WORK_DIR" -maxdepth 1 -name '*.pth' "$@" -print -quit 2>/dev/null || true; }
if [ "${SLURM_RESTART_COUNT:-0}" -gt 0 ] && [ -n "$(checkpoints)" ]; then
    # The last --resume counts: not from where the user began, but from where the job was.
    COMMAND+=(--resume)
fi

if [ "${REQUEUE:-1}" = 0 ] || ! may_requeue; then
    slurm_run "$PARTITION" "$JOB_NAME" "${COMMAND[@]}"
fi

START=$(mktemp)
slurm_run "$PARTITION" "$JOB_NAME" "${COMMAND[@]}" &
SRUN=$!
# Some ways of preemption signal this script only (sbatch --signal=B:TERM@120). srun itself would kill
# the tasks.
trap 'scancel --signal=TERM "$JOB" 2>/dev/null || true' TERM
CODE=0
wait "$SRUN" || CODE=$?
while kill -0 "$SRUN" 2>/dev/null; do
    CODE=0
    wait "$SRUN" || CODE=$?
done
SAVED=$(checkpoints -newer "$START")
rm -f "$START"
if [ $CODE = 143 ] && may_requeue; then
    LEFT=$(squeue -h -j "$JOB" -o %L)
    if [ -z "$SAVED" ] && [[ $LEFT =~ ^[0-9]:[0-9][0-9]$ ]]; then
        # The next run would come as far.
        echo "slurm_train.sh: SIGTERM came before the first checkpoint, $LEFT before the end of the job's time" \
            "limit. The job is not queued again: give it a longer --time, or a shorter --signal=TERM@SECONDS." >&2
        exit $CODE
    fi
    echo "slurm_train.sh: SIGTERM ended the training; job $JOB queues again and resumes from ${SAVED:-its start}."
    scontrol requeue "$JOB"
fi
exit $CODE
