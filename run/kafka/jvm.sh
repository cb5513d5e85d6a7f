# shellcheck shell=bash disable=SC2154 # data, host, port, version, cluster_id, here: cluster.sh's
# Sourced by cluster.sh: three brokers as plain JVMs. It answers to the same names as docker.sh:
# MODE_fetch, MODE_pid N, MODE_ready N, MODE_launch N, MODE_signal SIGNAL N, MODE_tail N,
# MODE_topics ARGS, MODE_groups ARGS.
# A broker is known by the tag on its own command line: a pid file can go stale, this cannot.

tag() { echo "-Dbackpressure.lab.broker=$data/broker-$1"; }

# Pids of broker N: the processes that carry its tag as a whole argument (the pattern goes in
# by stdin, so that grep does not find itself).
jvm_pids() {
  # shellcheck disable=SC2062 # a list of files, not a pattern
  tag "$1" | { grep -lzxF -f - /proc/[0-9]*/cmdline 2>/dev/null || true; } | cut -d/ -f3
}

jvm_pid() { jvm_pids "$1" | head -n 1; }
jvm_ready() {
  answers "$(plain_host)" "$(broker_port "$1")" && { [[ ! $secure ]] || answers "$host" "$(secure_port "$1")"; }
}

# One folder of jars a version. It is filled elsewhere and renamed, so it is whole or absent.
jvm_fetch() {
  local cache=${XDG_CACHE_HOME:-$HOME/.cache}/backpressure-lab
  jars=$cache/kafka-$version
  if [[ -d $jars ]]; then return; fi
  require java mvn
  mkdir -p "$cache"
  filling=$(mktemp -d "$jars.XXXXXX")
  log info jars_fetching "version=$version dir=$jars"
  mvn -B -q -f "$here/kafka/pom.xml" "-Dkafka.version=$version" dependency:copy-dependencies \
    -DincludeScope=runtime "-DoutputDirectory=$filling" 2>&1 |
    sed -n 's/\x1b\[[0-9;]*m//g; /./p' >&2 || # Maven colours even what it does not say
    die "Maven could not supply Kafka $version (its own words are above): try another --version, or 'run/cluster.sh up' without one"
  chmod 755 "$filling"
  if ! mv -T "$filling" "$jars" 2>/dev/null; then
    [[ -d $jars ]] || die "cannot write $jars"
    rm -rf -- "$filling" # another run was first
  fi
  log info jars_ready "version=$version count=$(find "$jars" -name '*.jar' | wc -l) dir=$jars"
}

# server.properties of broker N, on stdout. docker/compose.yaml holds the same settings.
broker_config() {
  local c=$((port + 100)) listeners
  listeners=HOST://$(plain_host):$(broker_port "$1")
  if [[ $secure ]]; then
    listeners+=,SECURE://$host:$(secure_port "$1")
    secure_config
  fi
  cat <<TEXT
node.id=$1
process.roles=broker,controller
controller.quorum.voters=1@127.0.0.1:$c,2@127.0.0.1:$((c + 1)),3@127.0.0.1:$((c + 2))
listeners=$listeners,CONTROLLER://127.0.0.1:$((c + $1 - 1))
advertised.listeners=$listeners
listener.security.protocol.map=HOST:PLAINTEXT,SECURE:SASL_SSL,CONTROLLER:PLAINTEXT
controller.listener.names=CONTROLLER
inter.broker.listener.name=HOST
log.dirs=$data/broker-$1/data
auto.create.topics.enable=false
default.replication.factor=3
min.insync.replicas=2
# few partitions: the group coordinator is there at once
offsets.topic.replication.factor=3
offsets.topic.num.partitions=3
transaction.state.log.replication.factor=3
transaction.state.log.num.partitions=3
transaction.state.log.min.isr=2
group.initial.rebalance.delay.ms=0
# experiment 6 lowers session.timeout.ms to this
group.min.session.timeout.ms=6000
# 64 MiB segments, deleted 1 s after their topic: the disk comes back
log.segment.bytes=67108864
log.segment.delete.delay.ms=1000
# what a topic no longer keeps is gone within a second, not five minutes
log.retention.check.interval.ms=1000
# the default, 128 MiB, would be a third of the heap; this one has few keys to compact
log.cleaner.dedupe.buffer.size=8388608
TEXT
}

# Starts broker N in a session of its own, so that a Ctrl-C at the caller's terminal does not
# reach it; formats its storage first if it has none. The tool that formats gets the password by stdin,
# so that `ps` does not show it; its stdout is dropped, because Kafka 4 prints the password's hashes.
jvm_launch() {
  local dir=$data/broker-$1 words
  mkdir -p "$dir"
  broker_config "$1" >"$dir/server.properties"
  if [[ -f $dir/broker.log ]]; then mv -f "$dir/broker.log" "$dir/broker.log.previous"; fi
  words=$(echo kafka.tools.StorageTool format; [[ ! $secure ]] || secure_users)
  # shellcheck disable=SC2016 # expanded by the inner bash
  setsid bash -c '
    dir=$1 id=$2; shift 2
    for fd in /proc/$$/fd/*; do # a lock or a pipe of the caller must not live on in a broker
      ((${fd##*/} < 3)) || eval "exec ${fd##*/}>&-"
    done
    [[ -f $dir/data/meta.properties ]] ||
      "$@" -Xmx128m -XX:TieredStopAtLevel=1 @/dev/stdin \
        --cluster-id "$id" --config "$dir/server.properties" >/dev/null || exit 1
    exec "$@" -Xms384m -Xmx384m kafka.Kafka "$dir/server.properties" </dev/null
  ' broker "$dir" "$cluster_id" java "$(tag "$1")" -cp "$jars/*" \
    -Dorg.slf4j.simpleLogger.showDateTime=true \
    '-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd HH:mm:ss.SSS' \
    <<<"$words" >"$dir/broker.log" 2>&1 &
  # Until exec it has no tag: who looks for it in between would take it for dead.
  until [[ $(jvm_pid "$1") ]] || ! kill -0 $! 2>/dev/null; do sleep 0.02; done
}

jvm_signal() { # SIGNAL N
  local pids
  mapfile -t pids < <(jvm_pids "$2")
  if ((${#pids[@]} > 0)); then kill "-$1" "${pids[@]}" 2>/dev/null || true; fi
}

jvm_tail() { tail -n 15 "$data/broker-$1/broker.log" >&2 || true; }

jvm_topics() { jvm_tool TopicCommand "$@"; }
jvm_groups() { jvm_tool consumer.group.ConsumerGroupCommand "$@"; }

jvm_tool() { # CLASS ARGS...
  timeout --foreground "$CLI_WITHIN_S" java -Xmx128m -XX:TieredStopAtLevel=1 -XX:+UseSerialGC \
    -Dorg.slf4j.simpleLogger.defaultLogLevel=error -cp "$jars/*" \
    "org.apache.kafka.tools.$1" --bootstrap-server "$(three "$(plain_host)" "$port")" "${@:2}"
}
