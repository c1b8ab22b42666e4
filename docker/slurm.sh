#!/bin/bash
# Render, train and evaluate on the nodes of a Slurm job, which form a Ray cluster until the job ends.
#   sbatch docker/slurm.sh SCANS OUT
# SCANS and OUT are on storage that all nodes share; `smile-pipe` and `ray` are on the PATH of sbatch.
# RENDER_OPTIONS and TRAIN_OPTIONS, if set, are added to the two commands. Requested GPUs (--gpus-per-node) are used.
# Submit it again to resume.
#SBATCH --job-name=smile-pipe
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --mem=32G
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@120
set -euo pipefail

scans=$1 out=$2
read -ra render_options <<<"${RENDER_OPTIONS:-}"
read -ra train_options <<<"${TRAIN_OPTIONS:-}"
evaluate_options=()
mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
gpus=${SLURM_GPUS_ON_NODE:-0}
logs=$out/slurm-$SLURM_JOB_ID
mkdir -p "$logs"

# Other users can reach these nodes, and without a token they could run code in this Ray. The token is of this job.
RAY_AUTH_TOKEN=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN
# Nodes stop after the last command, so they do not wait for running work.
export RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S=0

# Run Ray on a node until a signal stops it. Its files are in a local folder, which is removed at the end.
ray_node() {
    # Not `local`, because the traps need both. The name is short, because the paths of sockets are limited.
    folder=$(mktemp -d /tmp/ray-XXXXXX)
    trap 'rm -rf "$folder"' EXIT
    trap 'kill "$ray"' TERM INT
    ray start --block --disable-usage-stats --temp-dir="$folder" --num-cpus="$SLURM_CPUS_PER_TASK" \
        --object-store-memory=$((1 << 30)) "$@" &
    ray=$!
    # A signal ends the first wait before Ray has ended.
    while kill -0 "$ray" 2>/dev/null; do wait "$ray" || true; done
}

steps=() stage=
stop() {
    trap '' TERM
    # Stop the command first, so that it leaves a state from which it can resume.
    [ -z "$stage" ] || kill "$stage" 2>/dev/null || true
    [ -z "$stage" ] || wait "$stage" || true
    [ ${#steps[@]} -eq 0 ] || kill "${steps[@]}" 2>/dev/null || true
    wait
}
trap stop EXIT
trap 'exit 143' TERM

# start_node NODE LOG OPTIONS...: start Ray on a node, with a log and options of `ray start`.
start_node() {
    srun --nodes=1 --ntasks=1 --cpus-per-task="$SLURM_CPUS_PER_TASK" --nodelist="$1" \
        bash -c "$(declare -f ray_node); ray_node \"\$@\"" ray_node "${@:3}" >"$logs/$2.log" 2>&1 &
    steps+=($!)
}

# wait_for LOG STEP TEXT: wait until the log of a node contains a text.
wait_for() {
    until grep -q "$3" "$logs/$1.log"; do
        if ! kill -0 "${steps[$2]}" 2>/dev/null; then
            echo "Ray did not start on a node; see $logs/$1.log" >&2
            exit 1
        fi
        sleep 1
    done
}

run() {
    smile-pipe "$@" &
    stage=$!
    wait "$stage"
    stage=
}

# On shared nodes another job may use a fixed port.
client_port=$(python -c 'import socket; print(socket.create_server(("", 0)).getsockname()[1])')
start_node "${nodes[0]}" head --head --port=0 --ray-client-server-port="$client_port" --include-dashboard=false
wait_for head 0 "ray start --address="
address=$(sed -n "s/.*ray start --address='\([^']*\)'.*/\1/p" "$logs/head.log")
for number in "${!nodes[@]}"; do
    [ "$number" -eq 0 ] || start_node "${nodes[number]}" "worker-$number" --address="$address"
done
for number in "${!nodes[@]}"; do
    [ "$number" -eq 0 ] || wait_for "worker-$number" "$number" "Ray runtime started"
done

if [ "$gpus" -gt 0 ]; then
    render_options+=(--renderer pytorch3d)
    train_options+=(--num-workers $((${#nodes[@]} * gpus)) --use-gpu)
    evaluate_options+=(--use-gpu)
else
    render_options+=(--renderer zbuffer)
    train_options+=(--num-workers ${#nodes[@]})
fi
[ ! -e "$out/run/config.json" ] || train_options+=(--resume)
run render "$scans" --out "$out/shards" "${render_options[@]}" --address "$address"
run train --shards "$out/shards" --out "$out/run" "${train_options[@]}" --address "$address"
run evaluate "$out/run" --shards "$out/shards" "${evaluate_options[@]}"
