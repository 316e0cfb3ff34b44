#!/usr/bin/env bash
#SBATCH --job-name=tench
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=08:00:00
#SBATCH --signal=B:TERM@180
#SBATCH --output=tench-%j.log
# A Ray over the nodes of an allocation, the service on its first node, and nothing of either left afterwards.
#
#   sbatch [--nodes=4 --gpus-per-node=4 ...] docker/slurm.sh                     the service, until the time is up
#   sbatch docker/slurm.sh COMMAND...     the same, and ends with COMMAND, which reaches the service by TENCH_SERVER
#
# On a file system that all nodes share, in the environment of sbatch:
#   TENCH_HOME   folder of the service (default ./tench-home): runs, store, tokens; jobs go on in the next allocation
#   TENCH_ROOTS  folders of sources and datasets, a space between them (default TENCH_HOME/data)
#   TENCH_BIN    folder of the commands tench, ray and python (default .venv/bin)
#   TENCH_STORE  a store elsewhere, like postgresql://...; SQLite in TENCH_HOME unless told
# The page: ssh -L 8400:127.0.0.1:PORT NODE; PORT, NODE and the token's file stand in the log.
set -euo pipefail

BIN=$(realpath "${TENCH_BIN:-.venv/bin}")
HOME_FOLDER=$(realpath -m "${TENCH_HOME:-tench-home}")
read -r -a ROOTS <<<"${TENCH_ROOTS:-$HOME_FOLDER/data}"
JOB=${SLURM_JOB_ID:?start this by sbatch, or inside salloc}
CPUS=${SLURM_CPUS_PER_TASK:-1}
PRIVATE=$HOME_FOLDER/allocation-$JOB
# Allocations that share a node must not meet: ports and folders by the job's number.
BASE=$((20000 + JOB % 1200 * 10))
GCS=$BASE DASHBOARD=$((BASE + 1)) AGENT=$((BASE + 2)) PAGE=$((BASE + 3))
SCRATCH=/tmp/tench-$JOB
STARTS_WITHIN_S=${TENCH_STARTS_WITHIN_S:-180}
# A step of the allocation on one node. Not a function: in the background its process has to be srun itself.
STEP=(srun --nodes=1 --ntasks=1 --overlap)
STEPS=() SERVICE="" COMMAND=""

say() { printf 'tench: %s\n' "$*" >&2; }
fail() { say "$*"; exit 1; }

# Secrets in files of this user alone, never on a command line, which others on the node can read.
make_tokens() {
    umask 077
    mkdir -p "$PRIVATE" "${ROOTS[@]}"
    od -An -N32 -tx1 /dev/urandom | tr -d ' \n' >"$PRIVATE/ray-token"
    export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$PRIVATE/ray-token RAY_USAGE_STATS_ENABLED=0
    "$BIN/tench" token add "slurm-$JOB" --token-file "$PRIVATE/tokens.json" >"$PRIVATE/token"
}

start_ray() {
    local common=(--block --num-cpus="$CPUS" --disable-usage-stats --object-store-memory=268435456)
    "${STEP[@]}" --nodelist="$FIRST" "$BIN/ray" start --head "${common[@]}" --node-ip-address="$ADDRESS" --port="$GCS" \
        --dashboard-host=127.0.0.1 --dashboard-port="$DASHBOARD" --dashboard-agent-listen-port="$AGENT" \
        --temp-dir="$SCRATCH" &
    STEPS+=($!)
    wait_for "Ray's head" "$DASHBOARD/api/gcs_healthz"
    for node in "${OTHERS[@]}"; do
        "${STEP[@]}" --nodelist="$node" "$BIN/ray" start "${common[@]}" --address="$ADDRESS:$GCS" \
            --dashboard-agent-listen-port="$AGENT" &
        STEPS+=($!)
    done
}

start_service() {
    local roots=()
    for root in "${ROOTS[@]}"; do roots+=(--root "$root"); done
    # Loopback is no wall on a node that others share: a token is asked for there as well.
    "$BIN/tench" serve --port "$PAGE" --home "$HOME_FOLDER" "${roots[@]}" --require-token \
        --token-file "$PRIVATE/tokens.json" --ray-address "http://127.0.0.1:$DASHBOARD" &
    SERVICE=$!
    wait_for "the service" "$PAGE/readyz"
    export TENCH_SERVER=http://127.0.0.1:$PAGE TENCH_TOKEN_FILE=$PRIVATE/token
    say "the service is at $TENCH_SERVER on $FIRST; token: $TENCH_TOKEN_FILE; nodes: ${NODES[*]}"
}

wait_for() { # wait_for WHAT PORT/PATH: until it answers 200 on loopback, or something of ours has ended
    local deadline=$((SECONDS + STARTS_WITHIN_S)) pid
    until "$BIN/python" "$HERE/healthy.py" "http://127.0.0.1:$2" 2>/dev/null; do
        [ "$SECONDS" -lt "$deadline" ] || fail "$1 did not start within $STARTS_WITHIN_S s"
        for pid in "${STEPS[@]}" $SERVICE; do
            kill -0 "$pid" 2>/dev/null || fail "$1 did not start: a process that it needs has ended"
        done
        sleep 1
    done
}

# The service first, so that it starts nothing again; then the jobs, which go on in the next allocation; then Ray, node
# by node; then what they left on the nodes' disks.
clean_up() {
    local status=$?
    trap '' TERM INT
    trap - EXIT
    [ -z "$COMMAND" ] || end "$COMMAND"
    if [ -n "$SERVICE" ]; then
        end "$SERVICE"
        "$BIN/python" "$HERE/stop_jobs.py" "http://127.0.0.1:$DASHBOARD" || say "some jobs were cut off"
    fi
    for pid in "${STEPS[@]}"; do kill -TERM "$pid" 2>/dev/null || true; done
    for pid in "${STEPS[@]}"; do wait "$pid" 2>/dev/null || true; done
    for node in "${NODES[@]}"; do
        "${STEP[@]}" --nodelist="$node" rm -rf "$SCRATCH" || say "$node: $SCRATCH may still lie there"
    done
    rm -rf "$PRIVATE"
    exit "$status"
}

end() {
    kill -TERM "$1" 2>/dev/null || true
    wait "$1" 2>/dev/null || true
}

mapfile -t NODES < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
FIRST=${NODES[0]} OTHERS=("${NODES[@]:1}")
# sbatch runs a copy of this file: what lies beside it is found by the installation.
HERE=$("$BIN/python" -c 'import cluster, pathlib; print(pathlib.Path(cluster.__file__).parents[1] / "docker")')
# The address that the nodes reach each other by; set it where the first one is not that.
ADDRESS=${TENCH_HEAD_ADDRESS:-$("${STEP[@]}" --nodelist="$FIRST" hostname -I | cut -d' ' -f1)}
trap clean_up EXIT
# A wait that a signal interrupts ends the script with 143: sbatch's warning before the time is up, or scancel.
trap 'exit 143' TERM INT
make_tokens
start_ray
start_service
if [ $# -gt 0 ]; then
    "$@" &
    COMMAND=$!
    wait "$COMMAND"
else
    # A worker may go, and its shards are done elsewhere; without the head there is nothing to serve.
    wait -n "$SERVICE" "${STEPS[0]}"
fi
