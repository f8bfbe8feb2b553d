#!/bin/sh
# Compiles one kernel with NVIDIA's compiler from the package index, as `WSOL_CUDA=PIP pip install .` compiles them all.
# PYTHON is an interpreter with pip, cmake, ninja and pybind11, as in .venv; the compiler goes to build/packaged-nvcc.
set -eu
cd "$(dirname "$0")/.."
bin="$(cd "$(dirname "$(command -v "${PYTHON:-.venv/bin/python}")")" && pwd)"
folder="$PWD/build/packaged-nvcc"
"$bin/python" -m pip install --quiet --upgrade --no-warn-conflicts --target "$folder/site-packages" "cuda-toolkit[nvcc,cudart,cccl]"
export PYTHONPATH="$folder/site-packages" PATH="$bin:$PATH" CUDAARCHS=90
cmake -G Ninja -S . -B "$folder/build" -DWSOL_CUDA=PIP -DPython_EXECUTABLE="$bin/python" \
  -Dpybind11_DIR="$("$bin/python" -m pybind11 --cmakedir)" >"$folder/log" 2>&1 || { cat "$folder/log"; exit 1; }
cmake --build "$folder/build" --target CMakeFiles/_cuda.dir/csrc/boxes/box_iou.cu.o
grep "set(CMAKE_CUDA_COMPILER\(_VERSION\)\? " "$folder"/build/CMakeFiles/*/CMakeCUDACompiler.cmake
