#!/usr/bin/env bash
# Test on a Slurm cluster (see slurm_train.sh for the variables):
#   tools/slurm_test.sh PARTITION JOB_NAME CONFIG CHECKPOINT [flags of tools/test.py]
set -euo pipefail

if [ $# -lt 4 ]; then
    sed -n '2,3s/^# *//p' "$0" >&2
    exit 2
fi
PARTITION=$1
JOB_NAME=$2
CONFIG=$3
CHECKPOINT=$4
HERE=$(cd "$(dirname "$0")" && pwd)
if [ ! -e "$HERE/slurm_run.sh" ]; then
    # sbatch runs a copy of this file. Slurm knows where it came from.
    HERE=$(scontrol show job "${SLURM_JOB_ID-}" | sed -n 's/^ *Command=//p')
    HERE=${HERE%%/slurm_test.sh*}
fi
# shellcheck source=tools/slurm_run.sh
. "$HERE/slurm_run.sh"
export PYTHONPATH="$HERE/..:${PYTHONPATH-}"

slurm_run "$PARTITION" "$JOB_NAME" \
    python -u "$HERE/test.py" "$CONFIG" "$CHECKPOINT" --launcher=slurm "${@:5}"
