#!/bin/sh
# Installs an sdist, unpacked in a folder of its own, where there is no git, and runs tests of the sdist on it.
#
#   scripts/check_sdist.sh dist/cpu/wsol_ext-*.tar.gz
set -eu
sdist="$(realpath "$1")"
cd "$(dirname "$0")/.."
folder="$PWD/build/sdist"
rm -rf "$folder"
mkdir -p "$folder/source" "$folder/no-git"
tar -xzf "$sdist" -C "$folder/source" --strip-components 1
printf '#!/bin/sh\necho "git was called: $*" >&2\nexit 127\n' >"$folder/no-git/git"
chmod +x "$folder/no-git/git"
"${PYTHON:-.venv/bin/python}" -m venv "$folder/environment"
cd "$folder/source"
export PATH="$folder/no-git:$PATH" GIT_DIR=/nonexistent WSOL_CUDA=OFF
"$folder/environment/bin/python" -m pip install --quiet --upgrade pip
"$folder/environment/bin/python" -m pip install --quiet . --group test-core
cd tests
"$folder/environment/bin/python" -m pytest -n auto -k "not golden" ops/test_boxes.py ops/test_slic.py  # golden files are no part of an sdist
