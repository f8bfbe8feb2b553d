#!/bin/sh
# What pyproject.toml promises of versions: a wheel passes the whole suite with the oldest of each dependency, and with the
# newest on the newest Python. Writes benchmarks/results/versions.md. Takes half an hour and gigabytes: for once a week and
# releases.
#
#   PYTHON is an interpreter with pip; OLDEST and NEWEST are Pythons, by version or path; JOBS is how many processes test.
set -eu
cd "$(dirname "$0")/.."
folder="$PWD/build/versions"
"${PYTHON:-.venv/bin/python}" -m venv "$folder/tools"
"$folder/tools/bin/python" -m pip install --quiet uv
export WSOL_CUDA=OFF OMP_NUM_THREADS=1
failed=0

install() { # ENVIRONMENT PYTHON PACKAGES...
  environment="$folder/$1" python="$2"
  shift 2
  export VIRTUAL_ENV="$environment"
  "$folder/tools/bin/uv" venv --quiet --clear --seed --python "$python" "$environment"
  "$folder/tools/bin/uv" pip install --quiet "$@"
}

run() { # TESTS...
  # A wheel, built in a folder of its own: the sources' editable install stays as it is.
  "$folder/tools/bin/uv" pip install --quiet --no-deps --reinstall .
  (cd tests && "$environment/bin/python" -m pytest -n "${JOBS:-auto}" --dist worksteal --junitxml "$environment/tests.xml" "$@") ||
    failed=1
}

echo "== the oldest of each dependency"
install oldest "${OLDEST:-3.10}" --resolution lowest-direct --requirements pyproject.toml
"$folder/tools/bin/uv" pip freeze >"$folder/oldest.txt"
"$folder/tools/bin/uv" pip install --quiet --group test-oldest --constraint "$folder/oldest.txt"  # the tests' own needs may be new
newer="$(cd tests && grep -rlE '^(from|import) (attention\.networks|label_studio_sdk|transformers)' --include 'test_*.py' .)"
run . $(printf -- '--ignore %s ' $newer)

echo "== the oldest of each dependency that the tests' other packages go with"
install oldest-beside "${OLDEST:-3.10}" --requirements "$folder/oldest.txt"
"$folder/tools/bin/uv" pip install --quiet --group test
run $newer

echo "== the newest Python, and of each dependency"
install newest "${NEWEST:-3.13}" --requirements pyproject.toml --group test
run .

"$folder/newest/bin/python" scripts/tested_versions.py "$folder/oldest" "$folder/oldest-beside" "$folder/newest" |
  tee benchmarks/results/versions.md
exit "$failed"
