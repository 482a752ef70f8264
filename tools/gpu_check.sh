#!/usr/bin/env bash
# Build, test and measure the operator on this machine's GPU, within eight minutes:
#   tools/gpu_check.sh [--json FILE]
# Needs a Python >= 3.10 with torch >= 2.10 and setuptools, nvcc and a C++ compiler; no
# network. Another Python than python3: PYTHON=... tools/gpu_check.sh
set -euo pipefail

exec "${PYTHON:-python3}" "$(dirname "$0")/gpu_check.py" "$@"
