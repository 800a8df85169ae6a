#!/usr/bin/env bash
# Compares the driver of this machine with what the design assumes, and programs through the proxy with the
# same programs on the driver itself; writes a report.
#
#   tests/device-check/run.sh [FOLDER]            every part, one after the other
#   PART=2 tests/device-check/run.sh [FOLDER]     one part; each ends within eight minutes
#   tests/device-check/run.sh --list              the parts and their cases
#
# PART 0 is the assumptions probe: it needs a C compiler and a driver. The others need Python 3 beside that
# and what their cases need (nvcc, PyTorch, JAX, ...): a case whose need is missing is reported as not run.
# Nothing here needs Rust, a network or a CUDA header. The binaries of the project are taken from
# VGPU_BINARIES, or target/release, or target/debug: build them elsewhere and carry them along.
#
# The report goes to FOLDER, or $OUT, or docs/results. A part replaces its own section of the day's report.
# PROBE_LIBRARY names another driver library than the libcuda.so.1 that the loader finds: the software
# GPU's, say. Exit status: 0 if nothing failed, 1 if something did, 2 for wrong usage.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
part=${PART:-all}
last=$(PYTHONPATH=$here python3 -m suite --last-part 2>/dev/null || echo 0)

if [ "${1:-}" = --list ]; then
    echo "part 0: the assumptions of the design"
    PYTHONPATH=$here exec python3 -m suite --list
fi
folder=${1:-${OUT:-$root/docs/results}}
case $part in
all) parts=$(seq 0 "$last") ;;
*[!0-9]* | '') parts= ;;
*) parts=$part ;;
esac
if [ -z "$parts" ] || [ "${parts##*[!0-9]}" -gt "$last" ]; then
    echo "device-check: there is no PART=$part; parts are 0 to $last, \`$0 --list\` shows them" >&2
    exit 2
fi
compiler=${CC:-cc}
if ! command -v "$compiler" >/dev/null; then
    echo "device-check: no C compiler ($compiler); install gcc or set CC" >&2
    exit 1
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$compiler" -std=gnu11 -O2 -Wall -Wextra -o "$work/probe" "$here"/probe/*.c -ldl -lpthread

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

status=0
for each in $parts; do
    if [ "$each" = 0 ]; then
        "$work/probe" "$work/assumptions.md" || status=1
        PYTHONPATH=$here python3 -m suite --insert 0 "$work/assumptions.md" --report "$report"
    else
        PYTHONPATH=$here python3 -m suite --part "$each" --probe "$work/probe" --work "$work" --device "$device" \
            --report "$report" || status=1
    fi
done
echo "device-check: report in $report"
exit $status
