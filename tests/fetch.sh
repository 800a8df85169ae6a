# What the scripts have in common that fetch what tests need and the project does not have: kafka/fetch.sh,
# clients/fetch.sh, toolchain/fetch.sh. They source this file, say what they bring, and call `main "$@"`.
#
# They set: label (before each line), dir (where it comes to), pins (files whose digest says whether it is the right
# one), size (of the download) and python; and they define three functions:
#   works     whether what lies there can be used
#   may       ends with `fail 4` where it cannot be had
#   bring     brings it to $dir
# Exit status: 0 installed; 2 wrong usage; 3 not installed (--check); 4 it cannot be had here; 1 anything else.

say() { printf '%s: %s\n' "$label" "$*"; }
fail() {
    local status=$1
    shift
    printf '%s: %s\n' "$label" "$*" >&2
    exit "$status"
}

# The stamp is the digest of the pins, so that a changed pin installs anew.
digest() { cat "${pins[@]}" | sha256sum | cut -d' ' -f1; }
installed() { [[ -f $dir/installed && $(<"$dir/installed") == "$(digest)" ]] && works; }

# A virtual environment of pinned packages at $dir/venv. It cannot be moved once made, so it is made in place.
make_venv() {
    "$python" -m venv "$dir/venv" >/dev/null || fail 4 "$python cannot make a virtual environment: install python3-venv"
    "$dir/venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --only-binary :all: \
        --require-hashes -r "$1" </dev/null ||
        fail 4 "Python packages cannot be had here (see pip's message above); tests that need them will be skipped"
}

main() {
    case ${1-} in
    '') ;;
    --check)
        if installed; then
            say "installed in $dir"
            exit 0
        fi
        say "not installed; ${0##*/tests/} would download about $size to $dir"
        exit 3
        ;;
    *) fail 2 "usage: fetch.sh [--check]" ;;
    esac
    if installed; then
        say "installed in $dir"
        return
    fi
    command -v "$python" >/dev/null || fail 4 "no $python: install Python 3 with venv"
    may
    mkdir -p "$(dirname "$dir")"
    # Two test runs may want it at once: the second waits for the first and finds it installed.
    exec 9>"$dir.lock"
    flock 9
    if installed; then
        say "installed in $dir"
        return
    fi
    bring
    # It is whole.
    digest >"$dir/installed"
}
