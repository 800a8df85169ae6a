#!/usr/bin/env bash
# Compares the driver of this machine with what the design assumes, and writes a report.
#
#   PART=0 tests/device-check/run.sh [FOLDER]
#
# PART 0, the only one so far, is the assumptions probe. It needs a C compiler and a driver, no Rust, no
# network and no CUDA header. The report goes to FOLDER, or $OUT, or docs/results. PROBE_LIBRARY names
# another driver library than the libcuda.so.1 that the loader finds: the software GPU's, say.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
part=${PART:-0}
folder=${1:-${OUT:-$root/docs/results}}

if [ "$part" != 0 ]; then
    echo "device-check: there is no PART=$part; PART=0 is the assumptions probe" >&2
    exit 2
fi
compiler=${CC:-cc}
if ! command -v "$compiler" >/dev/null; then
    echo "device-check: no C compiler ($compiler); install gcc or set CC" >&2
    exit 1
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$compiler" -std=gnu11 -O2 -Wall -Wextra -o "$work/probe" "$here"/*.c -ldl -lpthread

device=$("$work/probe" --check device 2>/dev/null | sed -n 's/^fact\tdevice\t//p' || true)
if [ -z "$device" ]; then
    echo "device-check: no usable CUDA driver here:" >&2
    "$work/probe" --check device >/dev/null || true
    echo "device-check: run this on a machine with a GPU, or set PROBE_LIBRARY to the software GPU" >&2
    echo "              (target/debug/libsoftcuda.so after cargo build)" >&2
    exit 1
fi
mkdir -p "$folder"
name=$(printf '%s' "$device" | tr 'A-Z ' 'a-z-' | tr -cd 'a-z0-9-')
report="$folder/$(date -u +%Y-%m-%d)-$name.md"
"$work/probe" "$report"
