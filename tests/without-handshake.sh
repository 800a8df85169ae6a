#!/usr/bin/env bash
# Tests the build without the cudart handshake (docs/adr/0001-cudart-handshake.md): every Driver API program
# works, directly and through the proxy, and a program on NVIDIA's runtime is refused with 801 and does not crash.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
target=${CARGO_TARGET_DIR:-$root/target}/without-handshake
work=$(mktemp -d)
proxy=
end() {
    [[ -z $proxy ]] || { kill "$proxy" 2>/dev/null || true; wait "$proxy" 2>/dev/null || true; }
    rm -rf "$work"
}
trap end EXIT

cargo build --workspace --exclude e2e --exclude bench --no-default-features --target-dir "$target"
mkdir -p "$work/direct" "$work/remoted" "$work/run"
ln -s "$target/debug/libsoftcuda.so" "$work/direct/libcuda.so.1"
ln -s "$target/debug/libcuda.so" "$work/remoted/libcuda.so.1"
cat >"$work/gpu-proxy.toml" <<END
[proxy]
runtime_dir = "$work/run"

[driver]
kind = "softgpu"
library = "$target/debug/libsoftcuda.so"

[[zone]]
name = "plain"
memory = "1GiB"
pinned = "64MiB"
clients = 4
warm_workers = 1
END
"$target/debug/gpu-proxy" serve --config "$work/gpu-proxy.toml" 2>"$work/log" &
proxy=$!
for _ in $(seq 200); do
    [[ -S $work/run/plain/gpu.sock ]] && break
    sleep 0.05
done
export VGPU_SOCKET=$work/run/plain/gpu.sock

for side in direct remoted; do
    echo "without the handshake, $side:"
    tests/programs/run.sh "$work/$side" driver/
    runtime=${OUT:-$root/target/programs}/static-13.5/vectorAdd
    if [[ -x $runtime ]]; then
        status=0
        LD_LIBRARY_PATH=$work/$side "$runtime" >"$work/out" 2>&1 || status=$?
        if ((status == 0 || status > 128)); then
            echo "without the handshake, $side: a runtime program should fail cleanly, but ended with $status" >&2
            cat "$work/out" >&2
            exit 1
        fi
        echo "ok    a program on NVIDIA's runtime is refused (exit $status)"
    fi
done
