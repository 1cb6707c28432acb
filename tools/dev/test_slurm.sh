#!/usr/bin/env bash
# Tests the Slurm scripts, and the tools that submit jobs, on a real Slurm: one node, this machine, four CPUs, no GPU.
#
#   make test-slurm                   needs root and Debian or Ubuntu; installs slurm-wlm and munge if missing
#   SCENARIOS='trains signal' make test-slurm         only these
#   WORKERS=0 make test-slurm         data workers of a training process (1)
#   TABLE=table.md make test-slurm   also writes the result there
#
# The cluster has its own folder, key and ports: a Slurm that is already on this machine is left alone.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
if [ "$(id -u)" != 0 ]; then
  echo 'test-slurm: needs root, to start slurmd (for example in a container).' >&2
  exit 1
fi
if ! command -v slurmctld slurmd munged scontrol >/dev/null; then
  if ! command -v apt-get >/dev/null; then
    echo 'test-slurm: needs slurmctld, slurmd and munged: install your system'"'"'s packages of Slurm and munge.' >&2
    exit 1
  fi
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends slurm-wlm munge >/dev/null
fi

PY=$PWD/.venv/bin/python
export PATH="$PWD/.venv/bin:$PATH" OMP_NUM_THREADS=1 CUDA_VISIBLE_DEVICES=
for name in $(compgen -e | grep '^SLURM_\|^SBATCH_\|^MASTER_\|^GLOO_' || true); do unset "$name"; done
unset GPUS GPUS_PER_NODE CPUS_PER_TASK GRES SRUN_ARGS REQUEUE DIST_TIMEOUT
DIR=$(mktemp -d)
chmod 755 "$DIR"
HOST=$(hostname -s)
PIDS=()

cleanup() {
  local pid file
  scancel --user=root 2>/dev/null || true
  for file in "$DIR"/*.pid; do
    [ ! -e "$file" ] || PIDS+=("$(cat "$file")")
  done
  sleep 1
  for pid in ${PIDS[@]+"${PIDS[@]}"}; do kill "$pid" 2>/dev/null || true; done
  if [ -n "${KEEP-}" ]; then echo "logs: $DIR"; else rm -rf "$DIR" 2>/dev/null || { sleep 3; rm -rf "$DIR"; }; fi
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

free_port() { "$PY" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

start_cluster() {
  mkdir -m 700 "$DIR/key"
  mkdir "$DIR/state" "$DIR/spool"
  head -c 1024 /dev/urandom >"$DIR/key/munge.key"
  chmod 400 "$DIR/key/munge.key"
  munged --force --key-file="$DIR/key/munge.key" --socket="$DIR/munge.socket" \
    --pid-file="$DIR/munged.pid" --log-file="$DIR/munged.log" --seed-file="$DIR/munge.seed"
  cat >"$DIR/slurm.conf" <<CONF
ClusterName=test
SlurmctldHost=$HOST(127.0.0.1)
SlurmctldPort=$(free_port)
SlurmdPort=$(free_port)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$DIR/munge.socket
StateSaveLocation=$DIR/state
SlurmdSpoolDir=$DIR/spool
SlurmctldPidFile=$DIR/slurmctld.pid
SlurmdPidFile=$DIR/slurmd.pid
SlurmctldLogFile=$DIR/slurmctld.log
SlurmdLogFile=$DIR/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
ReturnToService=2
SlurmdParameters=config_overrides
KillWait=30
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName=$HOST NodeAddr=127.0.0.1 CPUs=4 RealMemory=1000 State=UNKNOWN
PartitionName=cpu Nodes=$HOST Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=60
PartitionName=urgent Nodes=$HOST MaxTime=INFINITE State=UP PriorityTier=10
CONF
  export SLURM_CONF=$DIR/slurm.conf
  slurmctld -c
  slurmd -c
  for _ in $(seq 30); do
    [ "$(sinfo -h -o %t 2>/dev/null)" = idle ] && return
    sleep 1
  done
  tail "$DIR"/slurm*.log >&2
  echo 'test-slurm: the node did not come up.' >&2
  exit 1
}

# A tiny data set, two tiny teachers, a config: as the end-to-end tests have them.
make_config() {
  PYTHONPATH=$PWD:$PWD/tests "$PY" - "$DIR/with blank" "${WORKERS:-1}" <<'PYTHON'
import sys
from pathlib import Path

from test_end_to_end.conftest import Workshop

folder = Path(sys.argv[1])
folder.mkdir()
Workshop(folder).config('tiny', workers=int(sys.argv[2]))
PYTHON
}

# options EPOCHS: few checkpoints, so that a signal does not hide behind one.
options() {
  echo train_cfg.max_epochs="$1" train_cfg.val_interval=5000 default_hooks.checkpoint.interval="$1" \
    default_hooks.teacher_check.num_batches=0 default_hooks.logger.interval=10
}

# train NAME EPOCHS: in the background; the log and the exit code go to $DIR/NAME.log and .code.
train() {
  # shellcheck disable=SC2046
  (
    code=0
    bash tools/slurm_train.sh cpu "$1" "$CONFIG" "$DIR/runs of/$1" --cfg-options $(options "$2") \
      >"$DIR/$1.log" 2>&1 || code=$?
    echo $code >"$DIR/$1.code"
  ) &
}

# wait_for SECONDS COMMAND...
wait_for() {
  local end=$((SECONDS + $1))
  shift
  until "$@"; do
    [ $SECONDS -lt $end ] || return 1
    sleep 0.5
  done
}
training() { grep -q 'Epoch(train) *\[[0-9]*[3-9]\]' "$DIR/$1.log" 2>/dev/null; }
ended() { [ -e "$DIR/$1.code" ]; }
job_of() { squeue -h -n "$1" -o %i | head -1; }
idle() { [ -z "$(squeue -h)" ]; }
state_of() { scontrol show job -o "$1" | sed 's/.* JobState=\([A-Z]*\).*/\1/'; }
over() { [[ $(state_of "$1") != @(PENDING|RUNNING|COMPLETING|CONFIGURING) ]]; }
in_state() { [ "$(state_of "$1")" = "$2" ]; }
is() { [ "$2" = "$3" ] || { echo "$1 is \"$2\", not \"$3\""; return 1; }; }
saved() { compgen -G "$DIR/runs of/$1/interrupted_iter_*.pth" >/dev/null || { echo 'nothing was saved'; return 1; }; }
exists() { [ -e "$DIR/runs of/$1" ] || { echo "$1 is missing"; return 1; }; }
code() { is 'the exit code' "$(cat "$DIR/$1.code")" "$2"; }

equal() {
  "$PY" - "$DIR/runs of/$1" "$DIR/runs of/$2" <<'PYTHON'
import sys
import warnings

import torch

warnings.filterwarnings('ignore')


def tensors(node, path=''):
    if isinstance(node, torch.Tensor):
        yield path, node
    elif isinstance(node, (dict, list, tuple)):
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            yield from tensors(value, f'{path}.{key}')


files = [torch.load(path, map_location='cpu') for path in sys.argv[1:]]
keys = ('state_dict', 'optimizer', 'agent_hook')
first, second = (dict(tensors({k: f[k] for k in keys})) for f in files)
different = [k for k in first if k not in second or not torch.equal(first[k], second[k])]
if different or first.keys() != second.keys():
    sys.exit(print(f'{len(different)} of {len(first)} tensors differ: {different[:2]}') or 1)
print(f'{len(first)} tensors equal to the bit')
PYTHON
}

trains() { # GPUS=2 trains to its end
  GPUS=2 train trains 4
  wait_for 180 ended trains && code trains 0 && exists trains/epoch_4.pth
}

asks() { # GPUS=2 reserves two tasks with a CPU each on one node, and no GPU
  GPUS=2 train asks 4000
  wait_for 120 training asks || return
  local job
  job=$(scontrol show job -o "$(job_of asks)")
  scancel --signal=TERM "$(job_of asks)"
  wait_for 90 ended asks
  is 'the reservation' "$(grep -o 'NumNodes=[0-9]* NumCPUs=[0-9]* NumTasks=[0-9]*' <<<"$job")" \
    'NumNodes=1 NumCPUs=2 NumTasks=2' && is 'the number of GRES requests' "$(grep -c gres/ <<<"$job" || true)" 0
}

two_jobs() { # two jobs at once on the node, two tasks each, do not meet
  GPUS=2 train two_jobs_1 60
  GPUS=2 train two_jobs_2 60
  wait_for 120 training two_jobs_1 && wait_for 120 training two_jobs_2 || return
  local running
  running=$(squeue -h -t R | wc -l)
  wait_for 300 ended two_jobs_1 && wait_for 300 ended two_jobs_2 && code two_jobs_1 0 && code two_jobs_2 0 &&
    is 'the number of jobs at once' "$running" 2 && equal two_jobs_1/epoch_60.pth two_jobs_2/epoch_60.pth
}

signal() { # scancel --signal=TERM saves; exit code 143
  GPUS=2 train signal 4000
  wait_for 120 training signal || return
  scancel --signal=TERM "$(job_of signal)"
  wait_for 90 ended signal && code signal 143 && saved signal
}

cancel() { # scancel saves within KillWait
  GPUS=2 train cancel 4000
  wait_for 120 training cancel || return
  scancel "$(job_of cancel)"
  wait_for 90 ended cancel && saved cancel
}

limit() { # the time limit with --signal=TERM@30 saves; exit code 143
  # Slurm may signal up to a minute early. A busy machine needs another minute for the first iterations.
  GPUS=2 SRUN_ARGS='--time=3 --signal=TERM@30' train limit 4000
  wait_for 240 ended limit && code limit 143 && saved limit
}

error() { # a user's error: its sentence, exit code 1
  local code=0
  GPUS=2 bash tools/slurm_train.sh cpu error "$DIR/none.py" "$DIR/runs of/error" >"$DIR/error.log" 2>&1 || code=$?
  is 'the exit code' $code 1 && grep -q 'The config file ".*none.py" does not exist' "$DIR/error.log"
}

lost() { # kill -9 of one task: the other says so in a sentence and ends; exit code 137
  GPUS=2 train lost 4000
  wait_for 120 training lost || return
  kill -9 "$(pgrep -f "train.py .*runs of/lost" | while read -r pid; do
    if tr '\0' '\n' <"/proc/$pid/environ" | grep -qx SLURM_PROCID=1; then echo "$pid"; break; fi
  done)"
  wait_for 60 ended lost && code lost 137 &&
    grep -q 'Error .*Rank 0 of 2 on host .* has lost the other processes' "$DIR/lost.log"
}

# batch NAME EPOCHS [flags of sbatch]: prints the job's number.
batch() {
  local name=$1 epochs=$2
  shift 2
  # shellcheck disable=SC2046
  sbatch --parsable -p cpu --ntasks=2 --job-name="$name" --output="$DIR/$name.log" "$@" \
    tools/slurm_train.sh cpu "$name" "$CONFIG" "$DIR/runs of/$name" --cfg-options $(options "$epochs")
}
requeued() { scontrol show job -o "$1" | grep -q 'Restarts=1'; }

# resumes NAME SIGNAL_COMMAND...: preempted, requeued, resumed; equal to a run without interruption.
resumes() {
  local name=$1 job
  shift
  if [ ! -e "$DIR/runs of/whole/epoch_150.pth" ]; then
    GPUS=2 train whole 150
    wait_for 300 ended whole && code whole 0 || return
  fi
  job=$(batch "$name" 150)
  wait_for 120 training "$name" || return
  "$@" "$job"
  wait_for 120 requeued "$job" || { echo "not requeued, state $(state_of "$job")"; return 1; }
  saved "$name" || return
  wait_for 60 in_state "$job" PENDING || return
  # Slurm waits two minutes; at once it would take the new start for a part of the old one.
  scontrol update JobId="$job" StartTime=now+10
  wait_for 300 over "$job"
  is 'the state' "$(state_of "$job")" COMPLETED || return
  grep -q 'interrupted_iter_' "$DIR/$name.log" && equal whole/epoch_150.pth "$name/epoch_150.pth"
}
requeue() { # a batch job whose steps get SIGTERM requeues itself, resumes, COMPLETED, equal bits
  resumes requeue scancel --signal=TERM
}
requeue_shell() { # requeues and resumes too where only the batch script gets SIGTERM (--signal=B:TERM), equal bits
  resumes requeue_shell scancel --batch --signal=TERM
}
preempt() { sbatch --output=/dev/null -p urgent --ntasks=4 --wrap 'sleep 3' >/dev/null; }
preempted() { # a batch job that Slurm preempts for an urgent one saves, requeues, resumes, COMPLETED, equal bits
  resumes preempted preempt
}

requeue_off() { # REQUEUE=0: saved, FAILED with 143, not requeued
  local job
  job=$(REQUEUE=0 batch requeue_off 4000)
  wait_for 120 training requeue_off || return
  scancel --signal=TERM "$job"
  wait_for 90 in_state "$job" FAILED && saved requeue_off &&
    is 'the exit code' "$(scontrol show job -o "$job" | grep -o ' ExitCode=[0-9:]*')" ' ExitCode=143:0'
}

requeue_cancelled() { # a batch job that the user cancels stays cancelled
  local job
  job=$(batch requeue_cancelled 4000)
  wait_for 120 training requeue_cancelled || return
  scancel "$job"
  wait_for 90 in_state "$job" CANCELLED && sleep 5 && wait_for 60 in_state "$job" CANCELLED &&
    is 'the number of restarts' "$(scontrol show job -o "$job" | grep -o 'Restarts=[0-9]*')" Restarts=0
}

tests() { # slurm_test.sh with two tasks
  [ -e "$DIR/runs of/trains/epoch_4.pth" ] || trains || return
  GPUS=2 bash tools/slurm_test.sh cpu tests "$CONFIG" "$DIR/runs of/trains/epoch_4.pth" \
    --work-dir "$DIR/runs of/tests" >"$DIR/tests.log" 2>&1 && grep -q 'accuracy/top1' "$DIR/tests.log"
}

# comparison FLAGS...: trains 'tiny' in $DIR/runs of/comparison as jobs, two at a time.
comparison() {
  # shellcheck disable=SC2046
  "$PY" tools/analysis_tools/compare_methods.py "$CONFIG" --launcher slurm --partition cpu --time 30 --jobs 2 \
    --reference tiny --work-dir "$DIR/runs of/comparison" "$@" --cfg-options $(options 60) \
    default_hooks.checkpoint.interval=60 train_cfg.val_interval=60
}
# task NUMBER NAME: the job of an array, while it runs.
task() { squeue -h -r -n "$2" -t R -o '%i' | grep "_$1\$"; }
# kill_task NUMBER: what the kernel does to all processes of a job that has no memory left.
kill_task() {
  local pid
  for pid in $(pgrep -f '^[^ ]*python'); do
    if tr '\0' '\n' 2>/dev/null <"/proc/$pid/environ" | grep -qx "SLURM_ARRAY_TASK_ID=$1"; then kill -9 "$pid"; fi
  done
}
iterating() { grep -q 'Epoch(train) *\[[0-9]*[3-9]\]' "$DIR/runs of/comparison/tiny/seed_$1/output.txt" 2>/dev/null; }

# requeues SIGNAL NUMBER: a job of the comparison that gets a signal goes back into the queue, and starts again.
requeues() {
  local job
  job=$(task "$2" compare_methods)
  scancel --signal="$1" "$job"
  wait_for 60 in_state "$job" PENDING || { echo "not requeued after $1, state $(state_of "$job")"; return 1; }
  scontrol update JobId="$job" StartTime=now+10
}

compare() { # compare_methods.py: jobs at their time limit (USR2) and preempted (TERM) resume, equal bits; a killed one is reported
  (
    code=0
    comparison --seeds 0 1 2 >"$DIR/compare.log" 2>&1 || code=$?
    echo $code >"$DIR/compare.code"
  ) &
  wait_for 120 iterating 0 || { echo 'no training'; return 1; }
  wait_for 60 iterating 1 || { echo 'no second training at the same time'; return 1; }
  kill_task 1
  requeues USR2 0 || return
  wait_for 120 iterating 2 || { echo 'the others do not go on'; return 1; }
  requeues TERM 2 || return
  wait_for 300 ended compare && code compare 1 || return
  grep -q 'tiny, seed 1: FAILED.*it was killed' "$DIR/compare.log" || { echo 'the killed job is not reported'; return 1; }
  grep -q 'Error: 1 of 3 trainings have no result' "$DIR/compare.log" || { echo 'not one failed'; return 1; }
  # The same command trains what is missing; the other row is seed 0 without an interruption.
  comparison --seeds 0 --row whole "$CONFIG" >"$DIR/compare.log" 2>&1 || { echo 'the second command failed'; return 1; }
  grep -q '2 trainings: 2 methods, 1 seeds; 1 have finished before' "$DIR/compare.log" &&
    grep -q 'resumed epoch' "$DIR/runs of/comparison/tiny/seed_0/output.txt" &&
    grep -q 'resumed epoch' "$DIR/runs of/comparison/tiny/seed_2/output.txt" &&
    equal comparison/tiny/seed_0/epoch_60.pth comparison/whole/seed_0/epoch_60.pth
}

refused() { # compare_methods.py: a partition that does not exist: Slurm's words in a sentence, exit code 1
  local code=0
  comparison --partition none >"$DIR/refused.log" 2>&1 || code=$?
  is 'the exit code' $code 1 && grep -q '^Error: Slurm refuses the jobs: invalid partition specified' "$DIR/refused.log"
}

again() { # compare_methods.py: the command is killed, its job goes on, and the same command waits for that job
  comparison --seeds 7 >"$DIR/again.log" 2>&1 &
  local command=$! job
  wait_for 120 iterating 7 || { echo 'no training'; return 1; }
  kill -9 $command "$(pgrep -P $command -f compare_methods | head -1)" 2>/dev/null || true
  job=$(job_of compare_methods)
  comparison --seeds 7 >"$DIR/again.log" 2>&1 || { echo 'the second command failed'; return 1; }
  grep -q '1 job of an earlier command' "$DIR/again.log" && is 'the state' "$(state_of "$job")" COMPLETED
}

store() { # store_teacher_outputs.py: an array of three jobs, one killed, writes a whole store
  (
    code=0
    "$PY" tools/store_teacher_outputs.py "$CONFIG" "$DIR/the store" --views 40 --launcher slurm --partition cpu \
      --time 30 --jobs 3 --work-dir "$DIR/runs of/store" >"$DIR/store.log" 2>&1 || code=$?
    echo $code >"$DIR/store.code"
  ) &
  # As soon as a part is there, of 40.
  wait_for 120 compgen -G "$DIR/the store/inputs/view_*/part_*" >/dev/null || { echo 'no part'; return 1; }
  kill_task 1
  wait_for 240 ended store && code store 0 || return
  grep -q 'is complete, although 1 job failed' "$DIR/store.log" || { echo 'the killed job is not reported'; return 1; }
  "$PY" tools/store_teacher_outputs.py "$CONFIG" "$DIR/the store" --check >"$DIR/store.log" 2>&1 &&
    grep -q 'of 40 complete views' "$DIR/store.log"
}

start_cluster
make_config
CONFIG="$DIR/with blank/tiny.py"
mkdir "$DIR/runs of"
PASSED=0 FAILED=0 ROWS=()
ALL='trains tests asks error lost two_jobs signal cancel limit requeue requeue_shell preempted requeue_off requeue_cancelled refused compare again store'
for scenario in ${SCENARIOS:-$ALL}; do
  # What a scenario shows stands behind its name.
  title=$(sed -n "s/^$scenario() { # //p" tools/dev/test_slurm.sh)
  begin=$SECONDS
  if detail=$($scenario 2>&1); then
    result=passed PASSED=$((PASSED + 1))
  else
    result=FAILED FAILED=$((FAILED + 1))
    if [ -s "$DIR/$scenario.log" ]; then tail -5 "$DIR/$scenario.log" >&2; fi
    scancel --user=root
  fi
  wait_for 60 idle || true
  detail=$(tail -1 <<<"$detail")
  echo "$result  $scenario: $title${detail:+ ($detail)}, $((SECONDS - begin)) s"
  ROWS+=("| \`$scenario\` | $title | $result${detail:+, $detail} | $((SECONDS - begin)) |")
done
echo "$PASSED passed, $FAILED failed"

if [ -n "${TABLE-}" ]; then
  {
    echo "Last result of \`make test-slurm\`: $(date -u +%F), $(slurmd -V), torch" \
      "$("$PY" -c 'import torch; print(torch.__version__)'), $(nproc --all) CPUs," \
      "${WORKERS:-1} data worker(s) a process: **$PASSED passed, $FAILED failed**."
    echo
    printf '| scenario | what happens | result | seconds |\n|---|---|---|---|\n'
    printf '%s\n' "${ROWS[@]}"
  } >"$TABLE"
fi
[ $FAILED = 0 ]
