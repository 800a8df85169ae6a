#!/usr/bin/env bash
# Fetches Python programs that use CUDA, from PyPI: numba-cuda, CuPy, tinygrad, and the test suites they ship.
#
#   fetch.sh            install them, or do nothing where they are installed already
#   fetch.sh --check    say whether they are installed; download nothing
#
# Nothing here is part of this project or redistributed with it. Tests that need it are skipped, and say so,
# where it is missing. The programs compile with the CUDA toolchain of tests/toolchain/fetch.sh.
#
# Environment: PYTHON_CLIENTS_DIR (default target/python-clients), PYTHON (default python3; 3.11 to 3.13);
# pip's own settings (PIP_INDEX_URL, PIP_NO_INDEX, PIP_FIND_LINKS, ...) choose where packages come from.
# Exit status: 0 installed; 2 wrong usage; 3 not installed (--check); 4 they cannot be had here; 1 anything else.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
label=python-clients
dir=${PYTHON_CLIENTS_DIR:-$root/target/python-clients}
python=${PYTHON:-python3}
pins=("$here/requirements.txt" "$here/suites.txt")
size='150 MB'
. "$here/../fetch.sh"

works() { "$dir/venv/bin/python" -c '' 2>/dev/null; }

may() { :; }

# tinygrad and CuPy ship their tests with the sources only. Nothing is built of those: pip downloads the
# archive, compares the digest and unpacks it; that it then finds no CUDA to build CuPy with is expected.
fetch_suites() {
    local pip=("$dir/venv/bin/python" -m pip download --quiet --disable-pip-version-check --no-deps --no-binary :all:
        --require-hashes --no-build-isolation --no-clean --dest "$dir/suites/archives")
    local line name found
    mkdir -p "$dir/suites/archives" "$dir/suites/unpacked"
    while read -r line; do
        name=${line%%==*}
        TMPDIR=$dir/suites/unpacked "${pip[@]}" -r <(echo "$line") </dev/null >"$dir/suites/$name.log" 2>&1 || true
        found=$(find "$dir/suites/unpacked" -maxdepth 3 -type d -path "*/${name}_*/test*" -prune | head -n 1)
        [[ -n $found ]] || {
            cat "$dir/suites/$name.log" >&2
            return 1
        }
        mv "$found" "$dir/suites/$name"
    done < <(grep -v '^#' "$here/suites.txt")
    rm -rf "$dir/suites/unpacked" "$dir/suites/archives"
}

bring() {
    say "numba-cuda, CuPy and tinygrad with what they need, about 150 MB from the package index, to $dir"
    say "why: the tests run CUDA programs that others wrote, unmodified; see tests/clients"
    rm -rf "$dir"
    make_venv "$here/requirements.txt"
    fetch_suites || fail 4 "the clients' own tests cannot be had here (see pip's message above)"
    say "ready: $("$dir/venv/bin/python" --version) with $(grep -cE '^[a-z].*==' "$here/requirements.txt") packages in $dir"
}

main "$@"
