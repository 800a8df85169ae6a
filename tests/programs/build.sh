#!/usr/bin/env bash
# Builds the test programs and the examples in C: fetches the CUDA toolchain where it can, does without where it cannot.
#
# Environment: OUT (default target/programs), CUDA_TOOLCHAIN_DIR; arguments go to make.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
export OUT=${OUT:-$root/target/programs}
targets=(driver nvml cuda kernels)

status=0
"$root/tests/toolchain/fetch.sh" || status=$?
case $status in
0) ;;
4)
    echo "programs: no CUDA toolchain, so no CUDA C programs; the Driver API programs need none" >&2
    targets=(driver nvml)
    set --
    ;;
*) exit "$status" ;;
esac

# Without it one test is skipped, and says so.
"$root/tests/programs/nvml/fetch.sh" || [[ $? -eq 4 ]]

# Compilers say nothing unless something is wrong.
make --no-print-directory --silent -C "$root/tests/programs" -j "$(nproc)" "$@" "${targets[@]}"
make --no-print-directory --silent -C "$root/examples/driver-api" OUT="$root/target/examples"
[[ ${#targets[@]} -eq 1 ]] ||
    make --no-print-directory --silent -C "$root/examples/cuda-c" -j "$(nproc)" OUT="$root/target/examples" TOOLCHAIN="${CUDA_TOOLCHAIN_DIR:-$root/target/cuda-toolchain}"
echo "programs: $(find "$OUT/driver" -type f | wc -l) Driver API programs in $OUT/driver$(
    [[ ${#targets[@]} -eq 2 ]] || echo ", $(find "$OUT/objects/13.5" -type f | wc -l) CUDA C programs in four builds and $(find "$OUT/kernels" -name '*.ptx' | wc -l) files of kernels beside it")"
