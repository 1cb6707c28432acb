#!/usr/bin/env bash
# Store teacher outputs on the GPUs of one machine, or of several (see dist_train.sh):
#   tools/dist_store_teacher_outputs.sh CONFIG STORE GPUS [flags of tools/store_teacher_outputs.py]
# Machines need not start together: each may run the tool by itself on the same STORE.
set -euo pipefail

if [ $# -lt 3 ]; then
    sed -n '2,4s/^# *//p' "$0" >&2
    exit 2
fi
CONFIG=$1
STORE=$2
GPUS=$3
HERE=$(cd "$(dirname "$0")" && pwd)

PYTHONPATH="$HERE/..:${PYTHONPATH-}" exec python "$HERE/dist_run.py" "$GPUS" \
    "$HERE/store_teacher_outputs.py" "$CONFIG" "$STORE" --launcher pytorch "${@:4}"
