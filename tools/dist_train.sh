#!/usr/bin/env bash
# Train on several GPUs, or CPU processes, of one or more machines:
#   tools/dist_train.sh CONFIG PROCESSES_PER_MACHINE [flags of tools/train.py]
# On more than one machine also set NNODES, NODE_RANK, MASTER_ADDR and PORT.
set -euo pipefail

usage="usage: tools/dist_train.sh CONFIG PROCESSES_PER_MACHINE [flags]"
config=${1:?$usage}
processes=${2:?$usage}

python -m torch.distributed.run \
    --nnodes="${NNODES:-1}" \
    --node-rank="${NODE_RANK:-0}" \
    --master-addr="${MASTER_ADDR:-127.0.0.1}" \
    --master-port="${PORT:-29500}" \
    --nproc-per-node="$processes" \
    "$(dirname "$0")/train.py" "$config" --launcher pytorch "${@:3}"
