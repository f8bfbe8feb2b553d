#!/bin/sh
# What pyproject.toml promises of versions: with the oldest of each dependency the operators' and models' tests pass, and with
# the newest, on the newest Python, the operators' contract and the models' records. Takes some minutes and gigabytes: for once a week and releases.
#
#   PYTHON is an interpreter with pip; OLDEST and NEWEST are Pythons, by version or path.
set -eu
cd "$(dirname "$0")/.."
folder="$PWD/build/versions"
"${PYTHON:-.venv/bin/python}" -m venv "$folder/tools"
"$folder/tools/bin/python" -m pip install --quiet uv
export WSOL_CUDA=OFF OMP_NUM_THREADS=1

install() { # ENVIRONMENT PYTHON RESOLUTION PACKAGES...
  environment="$folder/$1" python="$2" resolution="$3"
  shift 3
  export VIRTUAL_ENV="$environment"
  "$folder/tools/bin/uv" venv --quiet --clear --python "$python" "$environment"
  "$folder/tools/bin/uv" pip install --quiet --resolution "$resolution" --requirements pyproject.toml "$@"
  "$environment/bin/python" -c "import numpy, timm, torch, lightning; print(
      'torch', torch.__version__, 'timm', timm.__version__, 'lightning', lightning.__version__, 'numpy', numpy.__version__)"
  # A wheel, built in a folder of its own: the sources' editable install stays as it is.
  "$folder/tools/bin/uv" pip install --quiet --no-deps --reinstall .
}

echo "== the oldest of each dependency"
install oldest "${OLDEST:-3.10}" lowest-direct
"$folder/tools/bin/uv" pip freeze --exclude-editable | grep -v wsol >"$folder/oldest.txt"  # the tests' own needs may be new
"$folder/tools/bin/uv" pip install --quiet --group test-core --constraint "$folder/oldest.txt"
# transformers, whose files test_foreign_weights.py reads, takes a newer numpy.
(cd tests && "$folder/oldest/bin/python" -m pytest -n auto ops models --ignore models/test_foreign_weights.py)

echo "== the newest Python, and of each dependency"
install newest "${NEWEST:-3.13}" highest
"$folder/tools/bin/uv" pip install --quiet --group test
(cd tests && "$folder/newest/bin/python" -m pytest -n auto ops/test_contract.py models/test_golden.py)
