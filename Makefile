# make demo    train a small model on drawn data, evaluate it, write runs/demo/report.html
# make test    every test: CUDA kernels emulated under sanitizers, then all backends this machine has, doctests included
# make lint    ruff, mypy, clang-format
# make bench   the benchmarks, with the table; SAVE=NAME writes benchmarks/results/NAME.md
# make clean   remove what these made
#
# Each sets up .venv by itself. PYTHON chooses the interpreter, WSOL_CUDA=ON|OFF|AUTO whether CUDA kernels are built.

PYTHON ?= python3
BIN := .venv/bin
SOURCES := CMakeLists.txt pyproject.toml $(shell find csrc wsol_ext -type f -not -name '*.pyc')

.PHONY: demo test lint format bench clean
.DELETE_ON_ERROR:

demo: .venv/installed
	$(BIN)/wsol demo --out runs/demo --overwrite true

test: .venv/installed-test
	PYTHON=$(BIN)/python sh scripts/test_emulated.sh
	$(BIN)/pytest --doctest-modules --pyargs wsol_ext tests

lint: .venv/installed-lint
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	git ls-files '*.h' '*.cuh' '*.cpp' '*.cu' | xargs $(BIN)/clang-format --dry-run --Werror

format: .venv/installed-lint
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
	git ls-files '*.h' '*.cuh' '*.cpp' '*.cu' | xargs $(BIN)/clang-format -i

bench: .venv/installed-test
	$(BIN)/pytest benchmarks $(if $(SAVE),--save $(SAVE)) $(if $(ROUNDS),--rounds $(ROUNDS))

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
	$(BIN)/python -m pip install --quiet --upgrade pip
	touch $@

.venv/installed: .venv/created $(SOURCES)
	$(BIN)/python -m pip install --quiet .
	touch $@

.venv/installed-test: .venv/installed
	$(BIN)/python -m pip install --quiet --group test
	touch $@

.venv/installed-lint: .venv/installed
	$(BIN)/python -m pip install --quiet --group lint
	touch $@
