# shellcheck shell=bash
# What slurm_train.sh, slurm_test.sh and slurm_store_teacher_outputs.sh have in common. They source it.

# What Slurm's commands call this job. The last job of an array has the number of the whole array.
JOB=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID-}}
JOB=${JOB:-${SLURM_JOB_ID-}}

# Whether this is a batch job (sbatch) that Slurm may put into the queue again and that still runs.
# One that the user has cancelled does not.
may_requeue() {
    local job
    [ -n "$JOB" ] && job=$(scontrol show job -o "$JOB") &&
        [[ $job == *BatchFlag=1* && $job == *" Requeue=1 "* && $job == *"JobState=RUNNING "* ]]
}

# slurm_run PARTITION JOB_NAME COMMAND...: becomes srun, with the tasks, GPUs and CPUs that the
# variables say.
slurm_run() {
    local partition=$1 job_name=$2 gpus per_node gres cpus options=()
    shift 2
    gpus=${GPUS:-${SLURM_NTASKS:-8}}
    if ! [[ $gpus =~ ^[1-9][0-9]*$ ]]; then
        echo "GPUS must be a whole number of at least 1, but is \"$gpus\"." >&2
        exit 2
    fi
    per_node=${GPUS_PER_NODE:-$((gpus < 8 ? gpus : 8))}
    gres=${GRES-}
    if [ -n "${SLURM_JOB_ID-}" ]; then
        # In a job (sbatch, salloc): a step of it, with what the job has.
        per_node=${GPUS_PER_NODE:-${SLURM_NTASKS_PER_NODE:-$per_node}}
        [ -n "$gres" ] || [ -n "${SLURM_JOB_GPUS-}${SLURM_GPUS_ON_NODE-}" ] || gres=none
        cpus=${CPUS_PER_TASK:-${SLURM_CPUS_PER_TASK-}}
    else
        options+=(-p "$partition")
        if [ -z "$gres" ] && [[ $(sinfo -h -p "$partition" -o %G) != *gpu* ]]; then
            gres=none
        fi
        # On a partition without GPUs, Slurm's own default.
        cpus=${CPUS_PER_TASK-}
        [ -n "$cpus" ] || [ "$gres" = none ] || cpus=5
    fi
    [ "$gres" = none ] || options+=("--gres=${gres:-gpu:$per_node}")
    [ -z "$cpus" ] || options+=("--cpus-per-task=$cpus")
    # Without Slurm's SIGTERM to the other tasks when one has failed: they end by themselves (within
    # DIST_TIMEOUT), and exit code 143 means that SIGTERM came from outside.
    # shellcheck disable=SC2206  # SRUN_ARGS is meant to be split
    options+=("--job-name=$job_name" "--ntasks=$gpus" "--ntasks-per-node=$per_node"
        --kill-on-bad-exit=0 ${SRUN_ARGS-})
    exec srun "${options[@]}" "$@"
}
