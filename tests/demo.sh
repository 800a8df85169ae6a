#!/usr/bin/env bash
# What `make demo` runs: an unmodified CUDA program through the whole system, on the software GPU.
#
# Installs what it needs and says so, starts what it needs and stops it again. Needs no root: what only
# root could do (zones of other users) is not shown, and the proxy says so in its log.
# Environment: VGPU_DEMO_RUNS (default 5) runs for the comparison at the end.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
target=${CARGO_TARGET_DIR:-$root/target}
work=$(mktemp -d "${TMPDIR:-/tmp}/vgpu-demo.XXXXXX")
runs=${VGPU_DEMO_RUNS:-5}
proxy=
auditor=
kafka=
finished=

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
show() { sed 's/^/    /'; }

# Whatever happens, nothing of ours stays behind, and the last line says how it went.
end() {
    local status=$?
    trap - EXIT
    if [[ -n $proxy ]] && kill -0 "$proxy" 2>/dev/null; then
        kill "$proxy" 2>/dev/null || true
        wait "$proxy" 2>/dev/null || true
    fi
    if [[ -n $kafka ]]; then
        tests/kafka/broker.sh kill "$kafka" || true
    fi
    if [[ -z $finished ]]; then
        ((status != 0)) || status=1
        if [[ -s $work/proxy.log ]]; then
            echo "--- the proxy's log" >&2
            tail -n 40 "$work/proxy.log" >&2
        fi
        printf '\nmake demo: FAILED, see above\n' >&2
    fi
    rm -rf "$work"
    exit "$status"
}
trap end EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

fail() {
    printf 'demo: %s\n' "$*" >&2
    exit 1
}

install_tools() {
    if ! command -v cc >/dev/null; then
        if [[ $(id -u) -eq 0 ]] && command -v apt-get >/dev/null; then
            say "Installing a C compiler (apt-get install gcc libc6-dev make)"
            apt-get update -q && apt-get install -q -y gcc libc6-dev make
        else
            fail "no C compiler: install gcc or clang as 'cc', then run this again"
        fi
    fi
    if ! command -v cargo >/dev/null && [[ -x ${CARGO_HOME:-$HOME/.cargo}/bin/cargo ]]; then
        PATH=${CARGO_HOME:-$HOME/.cargo}/bin:$PATH
    fi
    if ! command -v cargo >/dev/null; then
        command -v curl >/dev/null || fail "no Rust and no curl: install Rust from https://rustup.rs"
        say "Installing Rust with rustup into ${CARGO_HOME:-$HOME/.cargo} (about 200 MB)"
        curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y --profile minimal --no-modify-path
        PATH=${CARGO_HOME:-$HOME/.cargo}/bin:$PATH
    fi
}

# The log's keeper needs two libraries to be built, and Kafka Java to run: without them less is shown.
choose_log() {
    local status=0 packages=()
    [[ -e /usr/include/openssl/ssl.h && -e /usr/include/zlib.h ]] && command -v pkg-config >/dev/null ||
        packages+=(libssl-dev zlib1g-dev pkg-config)
    command -v java >/dev/null && command -v mvn >/dev/null || packages+=(openjdk-17-jre-headless maven)
    if ((${#packages[@]})) && [[ $(id -u) -eq 0 ]] && command -v apt-get >/dev/null; then
        say "Installing what the audit log needs (apt-get install ${packages[*]})"
        apt-get update -q && apt-get install -q -y --no-install-recommends "${packages[@]}"
    fi
    if [[ ! -e /usr/include/openssl/ssl.h || ! -e /usr/include/zlib.h ]] || ! command -v pkg-config >/dev/null; then
        echo "    no audit log is shown: it needs what Debian calls libssl-dev zlib1g-dev pkg-config"
        return
    fi
    auditor=yes
    tests/kafka/fetch.sh || status=$?
    case $status in
    0) kafka=$work/kafka ;;
    4) echo "    the audit log is shown without Kafka: it needs what Debian calls openjdk-17-jre-headless maven" ;;
    *) fail "tests/kafka/fetch.sh ended with $status" ;;
    esac
}

# Chooses the program and builds it: CUDA C with NVIDIA's runtime linked in, where its compiler can be had.
build_program() {
    local status=0
    tests/toolchain/fetch.sh || status=$?
    case $status in
    0)
        make --no-print-directory -C examples/cuda-c "$root/target/examples/vectorAdd"
        program=$root/target/examples/vectorAdd
        kind="a CUDA C program, compiled by nvcc with NVIDIA's CUDA runtime linked in, unmodified"
        ;;
    4)
        say "No CUDA compiler can be had here, so the demonstration takes a program on the Driver API"
        echo "    (C, with PTX from our own source). Everything behind libcuda.so.1 is the same."
        make --no-print-directory -C examples/driver-api "$root/target/examples/vectoradd"
        program=$root/target/examples/vectoradd
        kind="a Driver API program with PTX from our own source"
        ;;
    *) fail "tests/toolchain/fetch.sh ended with $status" ;;
    esac
}

# Runs the program, in its own folder, with the driver in directory $1.
with_driver() {
    (
        cd "${program%/*}"
        export LD_LIBRARY_PATH=$work/$1${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH} VGPU_SOCKET=$work/run/demo/gpu.sock
        exec "./${program##*/}"
    )
}

start_proxy() {
    local release=$target/release
    mkdir -p "$work/run" "$work/direct" "$work/remoted"
    ln -s "$release/libsoftcuda.so" "$work/direct/libcuda.so.1"
    ln -s "$release/libcuda.so" "$work/remoted/libcuda.so.1"
    cat >"$work/gpu-proxy.toml" <<END
[proxy]
runtime_dir = "$work/run"

[driver]
kind = "softgpu"
library = "$release/libsoftcuda.so"

[[zone]]
name = "demo"
memory = "1GiB"
pinned = "64MiB"
clients = 4
warm_workers = 1
END
    if [[ -n $auditor ]]; then
        cat >>"$work/gpu-proxy.toml" <<END

[audit]
spool = "$work/audit"
key = "$work/audit.key"
name = "demo/audit"
checkpoint_after = "100ms"
END
    fi
    if [[ -n $kafka ]]; then
        start_kafka
        cat >>"$work/gpu-proxy.toml" <<END

[audit.kafka]
brokers = "$(<"$kafka/bootstrap")"
topic = "audit"
checkpoints = "audit-notes"
END
    fi
    "$release/gpu-proxy" check "$work/gpu-proxy.toml" >/dev/null
    "$release/gpu-proxy" serve --config "$work/gpu-proxy.toml" 2>"$work/proxy.log" &
    proxy=$!
    for _ in $(seq 600); do
        [[ -S $work/run/demo/gpu.sock && -S $work/run/admin.sock ]] && break
        kill -0 "$proxy" 2>/dev/null || fail "gpu-proxy did not start"
        sleep 0.05
    done
    [[ -S $work/run/demo/gpu.sock ]] || fail "gpu-proxy did not open its socket"
}

start_kafka() {
    local topic
    tests/kafka/broker.sh start "$kafka"
    for topic in audit audit-notes; do
        kafka_tool topics --create --topic "$topic" --partitions 1 --replication-factor 1 \
            --config message.timestamp.type=LogAppendTime --config retention.ms=-1 >/dev/null
    done
}

kafka_tool() { tests/kafka/broker.sh tool "$1" --bootstrap-server "$(<"$kafka/bootstrap")" "${@:2}"; }

audit() { "$target/release/vgpuctl" audit "$@"; }

# What was recorded of the runs, and whether it holds: where Kafka is, by what is there.
show_log() {
    local log=$work/audit end sent
    audit tail --log "$log" --zone demo --count 100000 >"$work/tail"
    # One run, from its attach to its detach, without what is there many times.
    awk '/ attach \{/ { lines = "" } { lines = lines $0 "\n" } / detach \{/ { print lines; exit }' "$work/tail" |
        awk 'NF && ++times[/ call / ? $4 : $0] <= 2 { gsub(/"client":\{[^}]*\},?/, ""); gsub(/ client [0-9]+ worker [0-9]+ device 0/, "")
            print (length > 130 ? substr($0, 1, 130) "..." : $0) }' | show
    if [[ -n $kafka ]]; then
        end=$(audit export --log "$log" | grep -vc '^{"ch')
        for _ in $(seq 200); do
            sent=$(cat "$log/acknowledged" 2>/dev/null || echo 0)
            ((sent >= end)) && break
            sleep 0.1
        done
        echo
        echo "    Kafka's console consumer has from the topic:"
        kafka_tool console-consumer --topic audit --from-beginning --timeout-ms 3000 --property print.timestamp=true \
            2>/dev/null | grep -a '"event":"attach"' | head -n 1 | cut -c1-200 | show
        "${KAFKA_DIR:-$root/target/kafka}/venv/bin/python" tests/kafka/read.py "$(<"$kafka/bootstrap")" audit >"$work/blocks"
        "${KAFKA_DIR:-$root/target/kafka}/venv/bin/python" tests/kafka/read.py "$(<"$kafka/bootstrap")" audit-notes >"$work/notes"
        audit from-topic "$work/blocks" "$work/notes" >"$work/from-topic" 2>/dev/null
        log=$work/from-topic
    fi
    echo
    echo "    vgpuctl audit verify, on what was read from ${kafka:+Kafka}${kafka:-its folder}:" | sed "s|$kafka||"
    audit verify --log "$log" --key "$work/audit.key.pub" | show
}

status_of_proxy() { "$target/release/vgpuctl" status --socket "$work/run/admin.sock"; }

# Lets the program run and catches what the proxy says of it meanwhile. The program is quick: it runs again
# until the proxy was asked between its launch and its end, which shows the kernel too.
run_and_watch() {
    local name=${program##*/} seen running status
    : >"$work/seen"
    for _ in $(seq 40); do
        with_driver remoted >"$work/remoted.out" 2>"$work/remoted.err" &
        running=$! status=0
        while kill -0 "$running" 2>/dev/null; do
            seen=$(status_of_proxy 2>/dev/null) || continue
            # The last column of the client's line is its kernels, `-` as long as there are none.
            if grep -q "$name.*[^-]\$" <<<"$seen"; then
                printf '%s\n' "$seen" >"$work/seen"
            elif [[ ! -s $work/seen ]] && grep -q "$name" <<<"$seen"; then
                printf '%s\n' "$seen" >"$work/seen"
            fi
        done
        wait "$running" || status=$?
        if ((status != 0)); then
            cat "$work/remoted.out" "$work/remoted.err" >&2
            fail "the program ended with $status"
        fi
        if grep -q "$name.*[^-]\$" "$work/seen"; then
            return 0
        fi
    done
    [[ -s $work/seen ]]
}

now() { date +%s%N; }

# Milliseconds of one run, the median of several, for the driver in directory $1.
median_milliseconds() {
    local times=() began
    for _ in $(seq "$runs"); do
        began=$(now)
        with_driver "$1" >/dev/null
        times+=($((($(now) - began) / 10000)))
    done
    printf '%s\n' "${times[@]}" | sort -n | awk '{ t[NR] = $1 } END { printf "%.1f", t[int((NR + 1) / 2)] / 100 }'
}

say "1/7 What is needed"
install_tools
choose_log
cargo --version | show

say "2/7 The program"
build_program
echo "    ${program#"$root"/}: $kind"

say "3/7 Building proxy, worker, library and software GPU"
cargo build --release -p supervisor -p worker -p vgpuctl -p vgpu-cuda -p softgpu-cuda ${auditor:+-p auditor}

say "4/7 Starting gpu-proxy with one zone on the software GPU"
start_proxy
if [[ $(id -u) -ne 0 ]]; then
    echo "    not root: the zone's socket stays yours, and no zone of another user can be shown"
fi
echo "    the program reaches a GPU only through $work/run/demo/gpu.sock"

say "5/7 Running the program through it"
with_driver direct >"$work/direct.out"
run_and_watch || fail "the proxy never showed the program"
show <"$work/remoted.out"
cmp -s "$work/direct.out" "$work/remoted.out" || {
    diff "$work/direct.out" "$work/remoted.out" >&2 || true
    fail "the output differs from a run on the software GPU directly"
}
echo "    the same output and exit code as on the software GPU directly"
echo
echo "    Meanwhile 'vgpuctl status' said:"
show <"$work/seen"

say "6/7 What the audit log says of it"
if [[ -n $auditor ]]; then
    show_log
else
    echo "    (not shown here, see above)"
fi

say "7/7 What the detour costs"
direct=$(median_milliseconds direct)
remoted=$(median_milliseconds remoted)
awk -v direct="$direct" -v remoted="$remoted" -v runs="$runs" 'BEGIN {
    printf "    whole program, median of %d runs: %s ms directly, %s ms through the proxy: %+.1f %%\n",
        runs, direct, remoted, (remoted / direct - 1) * 100
}'
echo "    (attach, start-up and exit included; make bench measures calls, launches and copies one by one)"

family=$(pgrep -P "$proxy" || true)
kill "$proxy"
wait "$proxy" || fail "gpu-proxy did not stop cleanly"
for pid in $family; do
    ! kill -0 "$pid" 2>/dev/null || fail "process $pid was left behind"
done
proxy=
finished=yes
printf '\nmake demo: OK: %s ran on a GPU it cannot touch, with the right result; everything is stopped\n' "${program##*/}"
