#!/usr/bin/env bash
# Test on several GPUs, or CPU processes, of one or more machines:
#   tools/dist_test.sh CONFIG CHECKPOINT PROCESSES_PER_MACHINE [flags of tools/test.py]
# On more than one machine also set NNODES, NODE_RANK, MASTER_ADDR and PORT.
set -euo pipefail

config=$1
checkpoint=$2
processes=$3

python -m torch.distributed.run \
    --nnodes="${NNODES:-1}" \
    --node-rank="${NODE_RANK:-0}" \
    --master-addr="${MASTER_ADDR:-127.0.0.1}" \
    --master-port="${PORT:-29500}" \
    --nproc-per-node="$processes" \
    "$(dirname "$0")/test.py" "$config" "$checkpoint" --launcher pytorch "${@:4}"
