#!/usr/bin/env bash
# Checks on one GPU all that only a GPU can show, without internet, within nine minutes:
#   bash tools/dev/gpu_check.sh OUT [flags: see --help]
# OUT gets gpu_check.json and gpu_check.html, written again after every check. PYTHON chooses the
# interpreter: Python 3.10 or newer with torch, mmengine, mmpretrain and mmcv or mmcv-lite.
set -euo pipefail

if [ $# -lt 1 ]; then
    sed -n '2,5s/^# *//p' "$0" >&2
    exit 2
fi
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
PYTHON=${PYTHON:-$([ -x "$ROOT/.venv/bin/python" ] && echo "$ROOT/.venv/bin/python" || echo python3)}
export PYTHONPATH="$ROOT:$ROOT/tools/dev${PYTHONPATH:+:$PYTHONPATH}"
# torch then counts the GPUs without CUDA, which processes that are forked could not use any more.
export PYTORCH_NVML_BASED_CUDA_CHECK=1
exec "$PYTHON" -m gpu_check "$@"
