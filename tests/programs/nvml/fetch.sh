#!/usr/bin/env bash
# Fetches NVIDIA's Python binding of NVML (nvidia-ml-py, BSD licence, 0.1 MB) for the test that runs it.
#
# It is unpacked to target/nvml-python, or NVML_PYTHON_DIR; pip's own settings choose where it comes from.
# Exit status: 0 installed; 4 it cannot be had here.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
dir=${NVML_PYTHON_DIR:-$(cd "$here/../../.." && pwd)/target/nvml-python}
stamp=$dir/installed
digest=$(sha256sum "$here/requirements.txt" | cut -d' ' -f1)

[[ -f $stamp && $(<"$stamp") == "$digest" ]] && exit 0
staging=$(mktemp -d)
trap 'rm -rf "$staging"' EXIT
python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: --require-hashes \
    --dest "$staging" -r "$here/requirements.txt" </dev/null || {
    echo "nvml: nvidia-ml-py cannot be had here (see pip's message above); the test that runs it will be skipped" >&2
    exit 4
}
mkdir -p "$dir"
python3 -m zipfile -e "$staging"/*.whl "$dir"
echo "$digest" >"$stamp"
