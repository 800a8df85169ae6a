#!/usr/bin/env bash
# Runs the test programs on a driver library and says which passed.
#
#   run.sh FOLDER [PATTERN]     FOLDER holds libcuda.so.1; PATTERN selects by "build/name"
#
# Exit status: 0 if every program passed, 1 if one failed, 2 for wrong usage.
set -uo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
out=${OUT:-$root/target/programs}
toolchain=${CUDA_TOOLCHAIN_DIR:-$root/target/cuda-toolchain}
seconds=${PROGRAM_SECONDS:-300}

[[ $# -ge 1 && -e $1/libcuda.so.1 ]] || {
    echo "usage: run.sh FOLDER [PATTERN], where FOLDER holds libcuda.so.1" >&2
    exit 2
}
driver=$(cd "$1" && pwd)
pattern=${2:-}
passed=0
failed=()

while read -r build name; do
    [[ -x $out/$build/$name && $build/$name == *$pattern* ]] || continue
    output=$(LD_LIBRARY_PATH=$driver:$toolchain/cu13/lib:$toolchain/cu12/lib timeout "$seconds" "$out/$build/$name" 2>&1)
    status=$?
    if [[ $status -eq 0 ]]; then
        passed=$((passed + 1))
        echo "ok    $build/$name"
    else
        failed+=("$build/$name")
        echo "FAIL  $build/$name (exit $status)"
        sed 's/^/        /' <<<"$output"
    fi
done < <(make --no-print-directory --silent -C "$here" list)

echo "$passed passed, ${#failed[@]} failed"
[[ ${#failed[@]} -eq 0 ]]
