#!/bin/bash
# The whole line on the nodes of a Slurm job, joined to a Ray cluster that ends with it: views, training, scores.
#   sbatch docker/slurm.sh SCANS OUT
# SCANS and OUT lie on storage that all nodes see; `smile-pipe` and `ray` are on the PATH that sbatch is called with.
# RENDER_OPTIONS and TRAIN_OPTIONS, if they are set, are added to the two commands. GPUs that are asked for
# (--gpus-per-node) are used. Submitted again, it goes on.
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

# Other users reach these nodes, and who reaches a Ray without a token runs what they like in it. This one is the job's.
RAY_AUTH_TOKEN=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN
# When nodes are told to stop, nothing is left to be finished.
export RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S=0

# What each node runs: Ray until it is told to stop, with its files in a folder of the node, that goes with it.
ray_node() {
    # Not local, since what is done at the end needs them. A short name, since there are sockets in it.
    folder=$(mktemp -d /tmp/ray-XXXXXX)
    trap 'rm -rf "$folder"' EXIT
    trap 'kill "$ray"' TERM INT
    ray start --block --disable-usage-stats --temp-dir="$folder" --num-cpus="$SLURM_CPUS_PER_TASK" \
        --object-store-memory=$((1 << 30)) "$@" &
    ray=$!
    # A signal ends the first wait, but not yet Ray.
    while kill -0 "$ray" 2>/dev/null; do wait "$ray" || true; done
}

steps=() stage=
stop() {
    trap '' TERM
    # First the command, which then leaves everything as it has to be to go on from.
    [ -z "$stage" ] || kill "$stage" 2>/dev/null || true
    [ -z "$stage" ] || wait "$stage" || true
    [ ${#steps[@]} -eq 0 ] || kill "${steps[@]}" 2>/dev/null || true
    wait
}
trap stop EXIT
trap 'exit 143' TERM

# Begin a node: its name, what the log is called, and options of `ray start`.
begin() {
    srun --nodes=1 --ntasks=1 --cpus-per-task="$SLURM_CPUS_PER_TASK" --nodelist="$1" \
        bash -c "$(declare -f ray_node); ray_node \"\$@\"" ray_node "${@:3}" >"$logs/$2.log" 2>&1 &
    steps+=($!)
}

# Wait for what Ray says when a node is there: name of the log, number of the step, words.
await() {
    until grep -q "$3" "$logs/$1.log"; do
        if ! kill -0 "${steps[$2]}" 2>/dev/null; then
            echo "Ray did not start on a node; $logs/$1.log says why" >&2
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

# On nodes that jobs share, ports with fixed numbers could be another job's.
client_port=$(python -c 'import socket; print(socket.create_server(("", 0)).getsockname()[1])')
begin "${nodes[0]}" head --head --port=0 --ray-client-server-port="$client_port" --include-dashboard=false
await head 0 "ray start --address="
address=$(sed -n "s/.*ray start --address='\([^']*\)'.*/\1/p" "$logs/head.log")
for number in "${!nodes[@]}"; do
    [ "$number" -eq 0 ] || begin "${nodes[number]}" "worker-$number" --address="$address"
done
for number in "${!nodes[@]}"; do
    [ "$number" -eq 0 ] || await "worker-$number" "$number" "Ray runtime started"
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
