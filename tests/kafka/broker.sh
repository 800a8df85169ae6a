#!/usr/bin/env bash
# Runs Apache Kafka on loopback, for the tests and the demo. fetch.sh installs it.
#
#   broker.sh start DIR [N]      start N brokers (default 1), each also a controller, and wait until they serve;
#                                all they have lies in DIR. In a DIR that has brokers already, starts those
#   broker.sh stop DIR [NODE]    stop all brokers, or one, in good order
#   broker.sh kill DIR [NODE]    kill all brokers, or one
#   broker.sh resume DIR NODE    start one again
#   broker.sh tool NAME ARG...   run one of Kafka's own tools: topics, configs, acls, console-consumer,
#                                console-producer
#
# DIR/bootstrap lists the addresses for anybody on this machine, DIR/secure those that want TLS and a password
# (SASL PLAIN; the broker's certificate in DIR/ca.pem; users `auditor`, `inspector` and `admin`, each with its name
# and -secret as its password); the first two may do what access lists grant them. Brokers log to DIR/NODE/log.
#
# Environment: KAFKA_DIR (default target/kafka), KAFKA_HEAP (default 256m, of each broker), KAFKA_PATIENCE (default
# 120, seconds until a broker must serve).
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
installed=${KAFKA_DIR:-$root/target/kafka}
heap=${KAFKA_HEAP:-256m}
patience=${KAFKA_PATIENCE:-120}

fail() {
    printf 'broker.sh: %s\n' "$*" >&2
    exit 1
}

# Brokers live for seconds on a busy machine: what makes Java start soon counts more than what makes it fast.
java=(java -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -XX:-UsePerfData
    "-Dlog4j.configuration=file:$here/log4j.properties" -cp "$installed/jars/*")

# Ports that nobody listens on, below those that the kernel gives to clients.
used_ports=()
free_port() {
    local port
    while :; do
        port=$((RANDOM % 12000 + 20000))
        if [[ " ${used_ports[*]-} " != *" $port "* ]] && ! (: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
            used_ports+=("$port")
            free=$port
            return
        fi
    done
}

# Files of a cluster of $1 nodes in $dir: certificate, then for each node its configuration and empty storage.
lay_out() {
    local count=$1 node id voters='' bootstrap='' secure='' ports=() most
    most=$((count < 3 ? count : 3))
    mkdir -p "$dir"
    keytool -genkeypair -alias broker -keyalg EC -groupname secp256r1 -dname CN=127.0.0.1 -validity 3650 \
        -ext SAN=IP:127.0.0.1 -ext bc:c=ca:true -storetype PKCS12 -keystore "$dir/broker.p12" \
        -storepass broker-secret >/dev/null 2>&1
    keytool -exportcert -rfc -alias broker -keystore "$dir/broker.p12" -storepass broker-secret \
        -file "$dir/ca.pem" >/dev/null 2>&1
    for ((node = 1; node <= count; node++)); do
        for _ in plain secure controller; do
            free_port
            ports+=("$free")
        done
        bootstrap+=,127.0.0.1:${ports[-3]}
        secure+=,127.0.0.1:${ports[-2]}
        voters+=,$node@127.0.0.1:${ports[-1]}
    done
    printf '%s\n' "${bootstrap#,}" >"$dir/bootstrap"
    printf '%s\n' "${secure#,}" >"$dir/secure"
    id=$(head -c 16 /dev/urandom | basenc --base64url | tr -d =)
    for ((node = 1; node <= count; node++)); do
        local at=$(((node - 1) * 3))
        mkdir -p "$dir/$node"
        cat >"$dir/$node/server.properties" <<PROPERTIES
process.roles=broker,controller
node.id=$node
controller.quorum.voters=${voters#,}
controller.listener.names=CONTROLLER
listeners=PLAIN://127.0.0.1:${ports[at]},SECURE://127.0.0.1:${ports[at + 1]},CONTROLLER://127.0.0.1:${ports[at + 2]}
advertised.listeners=PLAIN://127.0.0.1:${ports[at]},SECURE://127.0.0.1:${ports[at + 1]}
listener.security.protocol.map=PLAIN:PLAINTEXT,SECURE:SASL_SSL,CONTROLLER:PLAINTEXT
inter.broker.listener.name=PLAIN
sasl.enabled.mechanisms=PLAIN
listener.name.secure.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required \\
    user_admin="admin-secret" user_auditor="auditor-secret" user_inspector="inspector-secret";
ssl.keystore.type=PKCS12
ssl.keystore.location=$dir/broker.p12
ssl.keystore.password=broker-secret
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS;User:admin
allow.everyone.if.no.acl.found=false
auto.create.topics.enable=false
log.dirs=$dir/$node/data
offsets.topic.replication.factor=$most
offsets.topic.num.partitions=1
group.initial.rebalance.delay.ms=0
broker.session.timeout.ms=6000
num.network.threads=2
num.io.threads=2
log.cleaner.dedupe.buffer.size=8388608
PROPERTIES
        "${java[@]}" -Xmx128m kafka.tools.StorageTool format --cluster-id="$id" --config "$dir/$node/server.properties" \
            >"$dir/$node/log" 2>&1 || {
            cat "$dir/$node/log" >&2
            fail "the storage of node $node cannot be made"
        }
    done
}

# The number may be another process's by now.
running() { [[ -s $dir/$1/pid && $(ps -o comm= -p "$(<"$dir/$1/pid")") == java ]]; }

launch() {
    local node=$1
    [[ -f $dir/$node/server.properties ]] || fail "there is no node $node in $dir"
    ! running "$node" || return 0
    : >"$dir/$node/log"
    # A session of its own: a signal from a terminal is for whoever started it.
    setsid "${java[@]}" "-Xmx$heap" kafka.Kafka "$dir/$node/server.properties" \
        </dev/null >>"$dir/$node/log" 2>&1 &
    printf '%s\n' "$!" >"$dir/$node/pid"
}

await() {
    local node=$1 deadline=$((SECONDS + patience))
    until grep -q 'Kafka Server started' "$dir/$node/log"; do
        # Just launched it may not be Java yet.
        if ! kill -0 "$(<"$dir/$node/pid")" 2>/dev/null || ((SECONDS > deadline)); then
            tail -n 40 "$dir/$node/log" >&2
            fail "node $node does not serve"
        fi
        sleep 0.1
    done
}

end() {
    local signal=$1 node=$2 pid
    running "$node" || return 0
    pid=$(<"$dir/$node/pid")
    kill -s "$signal" "$pid"
    # Where one stops in good order, others may have to go first.
    for _ in $(seq 150); do
        kill -0 "$pid" 2>/dev/null || return 0
        sleep 0.1
    done
    kill -s KILL "$pid" 2>/dev/null || true
}

nodes() { find "$dir" -mindepth 2 -maxdepth 2 -name server.properties -printf '%h\n' | xargs -rn1 basename | sort -n; }

usage() { sed -n '2,18s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2; exit 2; }

main() {
    local command=${1-} node
    [[ $# -ge 2 ]] || usage
    [[ -d $installed/jars ]] || fail "Kafka is not in $installed; run tests/kafka/fetch.sh"
    if [[ $command == tool ]]; then
        local class
        case $2 in
        topics) class=org.apache.kafka.tools.TopicCommand ;;
        configs) class=kafka.admin.ConfigCommand ;;
        acls) class=kafka.admin.AclCommand ;;
        console-consumer) class=org.apache.kafka.tools.consumer.ConsoleConsumer ;;
        console-producer) class=kafka.tools.ConsoleProducer ;;
        *) usage ;;
        esac
        shift 2
        "${java[@]}" -Xmx128m "$class" "$@"
        return
    fi
    mkdir -p "$2"
    dir=$(cd "$2" && pwd)
    case $command in
    start)
        [[ -f $dir/bootstrap ]] || lay_out "${3:-1}"
        for node in $(nodes); do launch "$node"; done
        for node in $(nodes); do await "$node"; done
        ;;
    stop | kill)
        local signal=TERM ending=()
        [[ $command == stop ]] || signal=KILL
        for node in ${3:-$(nodes)}; do
            end "$signal" "$node" &
            ending+=($!)
        done
        wait "${ending[@]}"
        ;;
    resume)
        launch "${3:?which node}"
        await "$3"
        ;;
    *) usage ;;
    esac
}

main "$@"
