#!/usr/bin/env bash
# Test on the GPUs of one machine, or of several (see dist_train.sh):
#   tools/dist_test.sh CONFIG CHECKPOINT GPUS [flags of tools/test.py]
set -euo pipefail

if [ $# -lt 3 ]; then
    sed -n '2,3s/^# *//p' "$0" >&2
    exit 2
fi
CONFIG=$1
CHECKPOINT=$2
GPUS=$3
HERE=$(cd "$(dirname "$0")" && pwd)

PYTHONPATH="$HERE/..:${PYTHONPATH-}" exec python "$HERE/dist_run.py" "$GPUS" \
    "$HERE/test.py" "$CONFIG" "$CHECKPOINT" --launcher pytorch "${@:4}"
