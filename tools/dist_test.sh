#!/usr/bin/env bash
# Test on several GPUs, or CPU processes, of one or more machines:
#   tools/dist_test.sh CONFIG CHECKPOINT PROCESSES_PER_MACHINE [flags of tools/test.py]
# On more than one machine also set NNODES, NODE_RANK, MASTER_ADDR and PORT.
set -euo pipefail

usage="usage: tools/dist_test.sh CONFIG CHECKPOINT PROCESSES_PER_MACHINE [flags]"
config=${1:?$usage}
checkpoint=${2:?$usage}
processes=${3:?$usage}

python -m torch.distributed.run \
    --nnodes="${NNODES:-1}" \
    --node-rank="${NODE_RANK:-0}" \
    --master-addr="${MASTER_ADDR:-127.0.0.1}" \
    --master-port="${PORT:-29500}" \
    --nproc-per-node="$processes" \
    "$(dirname "$0")/test.py" "$config" "$checkpoint" --launcher pytorch "${@:4}"
