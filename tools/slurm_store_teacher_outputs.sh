#!/usr/bin/env bash
# Store teacher outputs on a Slurm cluster (see slurm_train.sh for the variables):
#   tools/slurm_store_teacher_outputs.sh PARTITION JOB_NAME CONFIG STORE \
#       [flags of tools/store_teacher_outputs.py]
# Any number of jobs may write one STORE, for example those of an array (sbatch --array=1-8). A job
# that was killed goes on when it is started again.
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail

if [ $# -lt 4 ]; then
    sed -n '2,6s/^# *//p' "$0" >&2
    exit 2
fi
PARTITION=$1
JOB_NAME=$2
CONFIG=$3
STORE=$4
HERE=$(cd "$(dirname "$0")" && pwd)
if [ ! -e "$HERE/slurm_run.sh" ]; then
    # sbatch runs a copy of this file. Slurm knows where it came from.
    HERE=$(scontrol show job "${SLURM_JOB_ID-}" | sed -n 's/^ *Command=//p')
    HERE=${HERE%%/slurm_store_teacher_outputs.sh*}
fi
# shellcheck source=tools/slurm_run.sh
. "$HERE/slurm_run.sh"
export PYTHONPATH="$HERE/..:${PYTHONPATH-}"

slurm_run "$PARTITION" "$JOB_NAME" \
    python -u "$HERE/store_teacher_outputs.py" "$CONFIG" "$STORE" --launcher=slurm "${@:5}"
