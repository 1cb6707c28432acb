#!/usr/bin/env bash
# CIFAR-100 as published: train the four teachers, then all students by all methods:
#   [STUDENTS="resnet56 shufflenetv2"] [SEEDS="0 1 2"] tools/cifar100.sh [GPUS] [--cfg-options ...]
# GPUS (1) networks are trained side by side, each on one GPU. What is finished is not trained
# again, what was interrupted goes on. Tables and plots go to work_dirs/cifar100/table_*.
set -euo pipefail

GPUS=${1:-1}
if ! [[ $GPUS =~ ^[1-9][0-9]*$ ]]; then
    sed -n '2,5s/^# *//p' "$0" >&2
    exit 2
fi
FLAGS=("${@:2}")
cd "$(dirname "$0")/.."
export PYTHONPATH="$PWD:${PYTHONPATH-}"
CONFIGS=configs/cifar100
OUT=work_dirs/cifar100

compare() {
    python tools/analysis_tools/compare_methods.py "$@" --jobs "$GPUS" ${FLAGS[@]+"${FLAGS[@]}"}
}

# Now, and not when several trainings look for the data at once.
mkdir -p data/cifar100
python -c "from mmpretrain.datasets import CIFAR100; CIFAR100('data/cifar100')"

TEACHERS=()
for config in "$CONFIGS"/teacher_*.py; do
    [ -e "$OUT/$(basename "$config" .py)/epoch_240.pth" ] || TEACHERS+=("$config")
done
if [ ${#TEACHERS[@]} -gt 0 ]; then
    compare "${TEACHERS[@]}" --seeds 0 --work-dir "$OUT" --out "$OUT/table_teachers"
    for config in "${TEACHERS[@]}"; do
        # Where the students' configs look, and where tools/train.py alone would have put it.
        ln -sf seed_0/epoch_240.pth "$OUT/$(basename "$config" .py)/epoch_240.pth"
    done
fi

STATUS=0
for student in ${STUDENTS:-regnetx_200mf mobilenetv2 shufflenetv2 resnet56}; do
    export STUDENT=$student
    # shellcheck disable=SC2086  # SEEDS is meant to be split
    compare "$CONFIGS"/student_*.py --seeds ${SEEDS:-0 1 2} --work-dir "$OUT/$student" \
        --out "$OUT/table_$student" || STATUS=1
done
exit $STATUS
