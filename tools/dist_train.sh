#!/usr/bin/env bash
# Train on the GPUs of one machine, or of several:
#   tools/dist_train.sh CONFIG GPUS [flags of tools/train.py]
#   NNODES=2 NODE_RANK=0 MASTER_ADDR=10.0.0.1 tools/dist_train.sh CONFIG 8
# On a machine without a GPU, GPUS is the number of processes. PORT: a free one on one machine, 29500 on
# several. DIST_TIMEOUT, SAVE_TIMEOUT and the exit codes: tools/dist_run.py.
set -euo pipefail

if [ $# -lt 2 ]; then
    sed -n '2,6s/^# *//p' "$0" >&2
    exit 2
fi
CONFIG=$1
GPUS=$2
HERE=$(cd "$(dirname "$0")" && pwd)

PYTHONPATH="$HERE/..:${PYTHONPATH-}" exec python "$HERE/dist_run.py" "$GPUS" \
    "$HERE/train.py" "$CONFIG" --launcher pytorch "${@:3}"
