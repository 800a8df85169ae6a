#!/usr/bin/env bash
# Fetches the CUDA toolchain that compiles the CUDA C test programs, from NVIDIA's wheels on PyPI.
#
#   fetch.sh            install it, or do nothing where it is installed already
#   fetch.sh --check    say whether it is installed; download nothing
#
# Nothing here is part of this project or redistributed with it: the wheels come under NVIDIA's licence,
# whose text is kept beside them. Tests that need it are skipped, and say so, where it is missing; the
# Driver API programs and all other tests need none of it.
#
# Environment: CUDA_TOOLCHAIN_DIR (default target/cuda-toolchain), PYTHON (default python3); pip's own
# settings (PIP_INDEX_URL, PIP_NO_INDEX, PIP_FIND_LINKS, ...) choose where the wheels come from.
# Exit status: 0 installed; 2 wrong usage; 3 not installed (--check); 4 the wheels cannot be had here;
# 1 anything else.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
label=cuda-toolchain
dir=${CUDA_TOOLCHAIN_DIR:-$root/target/cuda-toolchain}
python=${PYTHON:-python3}
pins=("$here/requirements.txt")
staging=

# name, bytes, folder and purpose of each pinned wheel, separated by tabs.
wheels() {
    sed -nE 's/^([^#= ]+==[^ ]+) .*# ([0-9]+) ([^ ]+) (.*)$/\1\t\2\t\3\t\4/p' "${pins[0]}"
}
total() { wheels | awk -F'\t' '{ sum += $2 } END { print sum }'; }
megabytes() { awk -v bytes="$1" 'BEGIN { printf "%.1f", bytes / 1e6 }'; }

size="$(megabytes "$(total)") MB"
. "$here/../fetch.sh"

works() { [[ -x $dir/cu13/bin/nvcc ]]; }

may() {
    [[ $(uname -s)-$(uname -m) == Linux-x86_64 ]] || fail 4 "wheels are pinned for Linux on x86-64, this is $(uname -s) on $(uname -m)"
}

# A python with pip: the one at hand, or a virtual environment of it.
find_pip() {
    if "$python" -m pip --version >/dev/null 2>&1; then
        return
    fi
    if "$python" -m venv "$staging/venv" >/dev/null 2>&1 && "$staging/venv/bin/python" -m pip --version >/dev/null 2>&1; then
        python=$staging/venv/bin/python
        return
    fi
    fail 4 "$python has neither pip nor venv: install python3-pip or python3-venv"
}

download() {
    local name bytes folder purpose at=0 count
    count=$(wheels | wc -l)
    say "NVIDIA's CUDA compiler and runtime, $(megabytes "$(total)") MB in $count wheels from the package index, to $dir"
    say "why: the tests run programs that nvcc built, unmodified; see tests/programs"
    mkdir "$staging/wheels"
    while IFS=$'\t' read -r name bytes folder purpose; do
        at=$((at + 1))
        say "[$at/$count] $name, $(megabytes "$bytes") MB: $purpose"
        grep -F "$name " "${pins[0]}" | sed 's/#.*//' >"$staging/one.txt"
        mkdir -p "$staging/wheels/$folder"
        if ! "$python" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: \
            --require-hashes --dest "$staging/wheels/$folder" -r "$staging/one.txt" </dev/null; then
            fail 4 "$name cannot be had here (see pip's message above); tests that need nvcc will be skipped"
        fi
    done < <(wheels)
}

unpack() {
    local folder wheel
    mkdir "$staging/unpacked" "$staging/licenses"
    for folder in cu13 cu12; do
        for wheel in "$staging/wheels/$folder"/*.whl; do
            "$python" -m zipfile -e "$wheel" "$staging/unpacked/$folder"
            rm "$wheel"
        done
        for wheel in "$staging/unpacked/$folder"/*.dist-info; do
            mkdir -p "$staging/licenses/$(basename "$wheel")"
            find "$wheel" -iname '*licen*' -type f -exec cp {} "$staging/licenses/$(basename "$wheel")" \;
        done
    done
    mv "$staging/unpacked/cu13/nvidia/cu13" "$staging/cu13"
    mv "$staging/unpacked/cu12/nvidia/cuda_runtime" "$staging/cu12"
    # A zip archive carries no execute permission, and the wheels no links to link against.
    find "$staging/cu13/bin" "$staging/cu13/nvvm/bin" -type f -exec chmod +x {} +
    ln -s libcudart.so.13 "$staging/cu13/lib/libcudart.so"
    ln -s libcudart.so.12 "$staging/cu12/lib/libcudart.so"
}

publish() {
    mkdir -p "$dir"
    rm -rf "$dir/installed" "$dir/cu13" "$dir/cu12" "$dir/licenses"
    mv "$staging/cu13" "$staging/cu12" "$staging/licenses" "$dir"
}

bring() {
    staging=$(mktemp -d "$dir.XXXXXX")
    trap 'rm -rf "$staging"' EXIT
    find_pip
    download
    unpack
    publish
    say "ready: $("$dir/cu13/bin/nvcc" --version | sed -n 's/^Cuda compilation tools, //p') in $dir"
}

main "$@"
