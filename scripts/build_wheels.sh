#!/bin/sh
# The wheels of a release by cibuildwheel, one a Python and machine, each for every torch, and the sdist; then checks them,
# the sdist by a build without git.
#
#   scripts/build_wheels.sh cuda12     the package index's: CPU and CUDA 12 kernels, which drivers of CUDA 13 run too
#   scripts/build_wheels.sh cuda13     kernels by a CUDA 13 compiler from the package index
#   scripts/build_wheels.sh cpu        no CUDA kernels
#
# Into dist/VARIANT, under the same names: a folder, or an index of its own, is one variant. It needs Docker or Podman
# (CIBW_CONTAINER_ENGINE), and cibuildwheel, build and auditwheel beside PYTHON. For cuda12, CIBW_MANYLINUX_X86_64_IMAGE (on Arm
# CIBW_MANYLINUX_AARCH64_IMAGE) names a manylinux_2_28 image with a toolkit of CUDA 12.8 or newer, nvcc on its PATH: the
# package index has no such compiler. CIBW_BUILD='cp312-*' builds for one Python.
set -eu
cd "$(dirname "$0")/.."
python="${PYTHON:-.venv/bin/python}" variant="${1:-}"
case "$variant" in
  cuda12) export WSOL_CUDA=ON ;;
  cuda13) export WSOL_CUDA=PIP ;;
  cpu) export WSOL_CUDA=OFF ;;
  *) echo "VARIANT is '$variant', it should be cuda12, cuda13 or cpu" >&2; exit 2 ;;
esac
"$python" -m cibuildwheel --platform linux --output-dir "dist/$variant"
"$python" -m build --quiet --sdist --outdir "dist/$variant"
"$python" scripts/check_wheels.py "dist/$variant"/*
PYTHON="$python" scripts/check_sdist.sh "dist/$variant"/*.tar.gz
