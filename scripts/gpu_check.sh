#!/usr/bin/env bash
# Everything that needs a GPU, on a machine that has one: the test suite on the cuda backend, the operators' tests under
# compute-sanitizer, and the benchmarks, whose table goes to benchmarks/results/.
#
#   scripts/gpu_check.sh                    in .venv, which `make` sets up
#   PYTHON=python3 scripts/gpu_check.sh     in an environment where wsol_ext is installed, and the test group of pyproject.toml
set -euo pipefail
cd "$(dirname "$0")/.."

if [ -z "${PYTHON:-}" ]; then
  WSOL_CUDA=ON make .venv/installed-test
  PYTHON=.venv/bin/python
fi

gpu="$("$PYTHON" - <<'PYTHON_END'
import sys

import torch

if not torch.cuda.is_available():
    sys.exit("torch finds no GPU: nothing was checked")
print(torch.cuda.get_device_name().replace(" ", "_"))
PYTHON_END
)"

echo "== tests on the cuda backend ($gpu)"
"$PYTHON" -m pytest --backend cuda tests

echo "== compute-sanitizer"
if command -v compute-sanitizer >/dev/null; then
  for tool in memcheck racecheck synccheck; do
    # torch's caching allocator would hide overruns inside its large blocks.
    PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool "$tool" --error-exitcode 1 \
      --kernel-regex kns=wsol "$PYTHON" -m pytest --backend cuda tests/ops -k "not compile"
  done
else
  echo "compute-sanitizer is not on PATH: install it with the CUDA toolkit to run this part" >&2
  missing=1
fi

echo "== benchmarks"
"$PYTHON" -m pytest benchmarks --device cuda --save "$gpu"

[ -z "${missing:-}" ] || { echo "done, without compute-sanitizer" >&2; exit 1; }
