#!/bin/sh
# Runs the operators' tests over the emulated CUDA kernels, built with AddressSanitizer and UndefinedBehaviorSanitizer.
# Arguments go to pytest. PYTHON is the interpreter, CXX the compiler.
set -eu
cd "$(dirname "$0")/.."
python="${PYTHON:-python}"
environment="$("$python" tests/emulator/build.py --sanitize --environment)"
eval "$environment"
export CUDA_VISIBLE_DEVICES=  # the driver and AddressSanitizer want the same addresses
# --capture=sys, so that a report of the sanitizers, written as the process dies, reaches the terminal.
exec "$python" -m pytest --capture=sys --backend emulated tests/ops tests/emulator "$@"
