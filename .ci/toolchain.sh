# Sourced by the scripts beside it: finds or installs what is not part of the pinned toolchain.

TOOLS="${CARGO_TARGET_DIR:-$PWD/target}/tools"

# A tool from crates.io, built once into target/tools. Prints its folder; fails when it cannot be had.
cargo_tool() {
    local name=$1
    if command -v "$name" >/dev/null; then
        dirname "$(command -v "$name")"
        return
    fi
    if [ ! -x "$TOOLS/bin/$name" ]; then
        echo "installing $name from crates.io into $TOOLS (once, a few minutes)" >&2
        # Not optimised: it runs for seconds and would be built for minutes.
        CARGO_TARGET_DIR="$TOOLS/build" cargo install --quiet --debug --locked "$name" --root "$TOOLS" >&2 || return 1
        rm -rf "$TOOLS/build"
    fi
    echo "$TOOLS/bin"
}

# A nightly toolchain with the given components, in the user's rustup or else a private one under target.
# Sets RUSTUP_HOME where needed; fails when it cannot be had.
nightly_with() {
    local missing=() component
    for component in "$@"; do
        case $component in
            miri) cargo +nightly miri --version >/dev/null 2>&1 || missing+=("$component") ;;
            *) [ -d "$(rustc +nightly --print sysroot 2>/dev/null)/lib/rustlib/src" ] || missing+=("$component") ;;
        esac
    done
    rustc +nightly --version >/dev/null 2>&1 && [ ${#missing[@]} -eq 0 ] && return
    export RUSTUP_HOME="$TOOLS/rustup"
    local options=()
    for component in "$@"; do options+=(-c "$component"); done
    echo "installing a nightly toolchain (${*:-minimal}) into $RUSTUP_HOME (once, about 700 MB)" >&2
    rustup toolchain install nightly --profile minimal "${options[@]}" --no-self-update >&2
}

# Says as loudly as a script can that a check did not run, and lets the caller go on.
not_run() {
    printf '\n%s\nNOT RUN: %s\n%s\n\n' '****************************************' "$1" '****************************************' >&2
}
