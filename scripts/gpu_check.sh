#!/usr/bin/env bash
# What needs a GPU, in stages that lose nothing to a time limit or a kill; `scripts/gpu_check.sh --help` says all.
#
#   scripts/gpu_check.sh                                  all: build smoke tests bench sanitize models
#   scripts/gpu_check.sh build smoke --within 540         some, in at most so many seconds; once more, and it goes on
#   scripts/gpu_check.sh table --save h100                what was found, as benchmarks/results/h100.md
set -eu
scripts="$(cd "$(dirname "$0")" && pwd)"
if [ -z "${PYTHON:-}" ] && [ -x "$scripts/../.venv/bin/python" ]; then
  PYTHON="$scripts/../.venv/bin/python"
fi
export PYTHON="${PYTHON:-python3}"
exec "$PYTHON" "$scripts/gpu_check" "$@"
