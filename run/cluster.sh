#!/usr/bin/env bash
# Three real Kafka brokers (KRaft, combined roles) on loopback: Docker where an engine answers,
# else JVMs from Maven Central jars, which may listen on another address (`up --host`) and may ask
# their clients for TLS and a password (`up --secure`).
# `up` leaves nothing half started, `down` leaves nothing.
# No remembered pid is ever signalled, and only a folder with our marker is ever deleted.
# It builds nothing and tunes no host setting. Logs go to stderr, answers to stdout.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
root=${here%/*}
# shellcheck source=run/prereq.sh
source "$here/prereq.sh"
# shellcheck source=run/kafka/flags.sh
source "$here/kafka/flags.sh"
# shellcheck source=run/kafka/jvm.sh
source "$here/kafka/jvm.sh"
# shellcheck source=run/kafka/secure.sh
source "$here/kafka/secure.sh"
# shellcheck source=run/kafka/docker.sh
source "$here/kafka/docker.sh"
export TZ=UTC # for our log lines and the brokers'

# UP: twice the 52 s that three brokers took to recover on two cores at a load average of 14.
# shellcheck disable=SC2034 # CLI_WITHIN_S is for the two files sourced above
readonly UP_WITHIN_S=120 STOP_WITHIN_S=30 CLI_WITHIN_S=20
readonly LOOPBACK=127.0.0.1 VERBS='fetch up down status brokers kill stop start topic coordinator'
readonly MARKER=backpressure-lab.cluster # its presence makes a folder ours to delete

# --- saying things ---------------------------------------------------------------------------
log() { printf 'ts=%(%Y-%m-%dT%H:%M:%SZ)T level=%s event=%s\n' -1 "$1" "${*:2}" >&2; }
die() { printf 'cluster.sh: %s\n' "$*" >&2; exit 1; }
misuse() { printf 'cluster.sh: %s (see run/cluster.sh --help)\n' "$*" >&2; exit 2; }
now_ms() { echo $((${EPOCHREALTIME/[.,]/} / 1000)); }

# --- the data folder: marker and remembered settings -------------------------------------------
is_cluster() { [[ -f $data/$MARKER ]]; }

# setting KEY: the remembered value. The marker is read, never executed.
setting() { sed -n "s/^$1=//p" "$data/$MARKER"; }

load() {
  mode=$(setting mode) version=$(setting version) port=$(setting port)
  host=$(setting host) host=${host:-$LOOPBACK} # an older marker has none
  secure=$(setting secure) # yes or nothing
  topic=$(setting topic) partitions=$(setting partitions) cluster_id=$(setting cluster_id)
}

save() {
  printf '%s=%s\n' mode "$mode" version "$version" port "$port" host "$host" secure "$secure" \
    topic "$topic" partitions "$partitions" cluster_id "$cluster_id" >"$data/$MARKER.new"
  mv -f "${data:?}/$MARKER"{.new,}
}

need_cluster() {
  is_cluster || die "no cluster in $data: start one with 'run/cluster.sh up --data $data'"
  load
}

# Listener HOST, plaintext, is for brokers and tools, and for clients where there is no listener SECURE.
plain_host() { if [[ $secure ]]; then echo "$LOOPBACK"; else echo "$host"; fi; }
broker_port() { echo $((port + $1 - 1)); }
secure_port() { echo $((port + $1 + 9)); }
three() { echo "$1:$2,$1:$(($2 + 1)),$1:$(($2 + 2))"; } # HOST FIRST-PORT
bootstrap() { three "$host" "$(if [[ $secure ]]; then secure_port 1; else broker_port 1; fi)"; }
answers() { (: <"/dev/tcp/$1/$2") 2>/dev/null; } # does a listener accept on ADDRESS PORT?

# Is $1 an IPv4 address of this machine, or rather of this network namespace?
is_local() {
  [[ $1 == 127.* ]] || awk -v want="$1" '$1 == "|--" { at = $2 }
    $1 == "/32" && $3 == "LOCAL" && at == want { found = 1 }
    END { exit !found }' /proc/net/fib_trie
}

# --- waiting -------------------------------------------------------------------------------------
broker_died() {
  log error broker_failed "broker=$1 reason=$2"
  echo "cluster.sh: last log lines of broker $1:" >&2
  "${mode}_tail" "$1"
  die "broker $1 $3 (folder: $data)"
}

# wait_up N SINCE_MS: until broker N accepts connections, at most UP_WITHIN_S after SINCE_MS.
wait_up() {
  local end=$(($2 + UP_WITHIN_S * 1000))
  until "${mode}_ready" "$1"; do
    [[ $("${mode}_pid" "$1") ]] || broker_died "$1" exited 'ended while starting'
    (($(now_ms) < end)) ||
      broker_died "$1" timeout "accepts no connection after $UP_WITHIN_S s"
    sleep 0.1
  done
  log info broker_up "broker=$1 pid=$("${mode}_pid" "$1") port=$(broker_port "$1") ms=$(($(now_ms) - $2))"
}

wait_gone() { # N SECONDS
  local end=$(($(now_ms) + $2 * 1000))
  while [[ $("${mode}_pid" "$1") ]]; do
    (($(now_ms) < end)) || return 1
    sleep 0.05
  done
}

# make_topic NAME PARTITIONS SINCE_MS: creates it if need be and waits until each partition has
# a leader and 3 replicas in sync. Creating fails until all three brokers have registered.
make_topic() {
  local end=$(($3 + UP_WITHIN_S * 1000)) out count ready made=
  while :; do
    if [[ ! $made ]]; then
      if out=$("${mode}_topics" --create --if-not-exists --topic "$1" --partitions "$2" \
        --replication-factor 3 --config min.insync.replicas=2 ${configs[@]+"${configs[@]}"} 2>&1); then made=1; fi
    fi
    if [[ $made ]] && out=$("${mode}_topics" --describe --topic "$1" 2>&1); then
      count=$(grep -c 'Leader:' <<<"$out" || true)
      ready=$(grep -cE 'Leader: [123]\b.*Isr: [123],[123],[123]\b' <<<"$out" || true)
      if ((count == $2 && ready == $2)); then break; fi
      ((count == 0 || count == $2)) ||
        die "topic $1 exists with $count partitions, not $2: 'run/cluster.sh topic delete $1 --data $data' first"
    fi
    if (($(now_ms) >= end)); then
      printf '%s\n' "$out" >&2
      die "topic $1 is not in sync after $UP_WITHIN_S s; Kafka's last words are above"
    fi
    sleep 0.2
  done
  log info topic_ready "topic=$1 partitions=$2 in_sync_replicas=3 ms=$(($(now_ms) - $3))"
}

# --- the verbs -----------------------------------------------------------------------------------
choose_mode() {
  if [[ $mode == docker ]]; then
    docker_answers || die "--mode docker: no Docker engine with the compose plugin answers ('docker info', 'docker compose version'); start it, or use --mode jvm"
  elif [[ $mode == auto ]]; then
    if [[ ! $secure ]] && docker_answers; then mode=docker; else mode=jvm; fi
  fi
  [[ $mode == jvm || $host == "$LOOPBACK" ]] ||
    die "--host $host: containers are published on $LOOPBACK only; add --mode jvm, or leave it out"
}

check_disk() {
  local want free at=$data
  while [[ ! -d $at ]]; do at=$(dirname "$at"); done
  want=$(numfmt --from=auto "${min_disk%B}")
  free=$(($(df -Pk "$at" | awk 'NR == 2 { print $4 }') * 1024))
  ((free >= want)) ||
    die "not enough disk for $data: $(numfmt --to=iec-i --suffix=B "$free") free, $(numfmt --to=iec-i --suffix=B "$want") needed; free some, choose another --data, or lower --min-disk"
}

check_ports() { # BROKER...
  local n at p holder listeners=() busy=()
  is_local "$host" || die "--host $host: no address of this machine: take one of 'ip -4 address', or leave it out"
  for n in "$@"; do
    listeners+=("$(plain_host):$(broker_port "$n")")
    if [[ $secure ]]; then listeners+=("$host:$(secure_port "$n")"); fi
    if [[ $mode == jvm ]]; then listeners+=("$LOOPBACK:$((port + n + 99))"); fi
  done
  for at in ${listeners[@]+"${listeners[@]}"}; do
    p=${at#*:}
    if answers "${at%:*}" "$p"; then
      holder=$({ ss -Hltnp "sport = :$p" 2>/dev/null || true; } | grep -o '"[^"]*",pid=[0-9]*' | head -n 1 || true)
      busy+=("$at (${holder:-holder unknown})")
    fi
  done
  ((${#busy[@]} == 0)) || die "port in use: ${busy[*]}; free it or choose another --port"
}

# Runs when `up` or `start` ends early: stops what it started; deletes a folder it made itself,
# unless it failed, when the logs are worth keeping.
undo() {
  local code=$? n
  trap '' INT TERM HUP PIPE
  set +e # what reads our words may have ended by the same Ctrl-C
  if [[ ${filling-} ]]; then rm -rf -- "$filling"; fi
  {
    jobs -p | xargs -r kill -KILL # one that is forked but not tagged yet
    for n in ${launched[@]+"${launched[@]}"}; do "${mode}_signal" KILL "$n"; done
    wait
  } 2>/dev/null # bash reports each job that was killed
  for n in ${launched[@]+"${launched[@]}"}; do
    wait_gone "$n" 5 || log warn broker_left "broker=$n pid=$("${mode}_pid" "$n")"
    log warn broker_undone "broker=$n reason=${verb}_did_not_finish"
  done
  if [[ ${fresh-} ]] && ((code > 128)); then
    remove_all
    log warn interrupted "data=$data removed=yes"
  fi
  exit "$code"
}

guard() {
  launched=()
  trap undo EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM
  trap 'exit 129' HUP
}

launch() {
  launched+=("$1") # first, so that an interrupt in between finds it
  "${mode}_launch" "$1"
  log info broker_starting "broker=$1 mode=$mode version=$version port=$(broker_port "$1")"
}

up() {
  local since launch_ms n dead=()
  since=$(now_ms)
  min_disk=${opt_min_disk-2GiB}
  if is_cluster; then
    load
    if [[ ${opt_mode-auto} == auto ]]; then opt_mode=$mode; fi
    [[ ${opt_version-$version} == "$version" && ${opt_port-$port} == "$port" &&
      ${opt_host-$host} == "$host" && ${opt_secure-$secure} == "$secure" && $opt_mode == "$mode" ]] ||
      die "the cluster in $data is mode=$mode version=$version port=$port host=$host secure=${secure:-no}: 'run/cluster.sh down --data $data' first, or choose another --data"
    topic=${opt_topic-$topic} partitions=${opt_partitions-$partitions}
  else
    [[ ! -e $data ]] || { [[ -d $data ]] && [[ -z $(ls -A "$data") ]]; } ||
      die "--data $data exists and is no cluster's folder: choose another, or an empty one"
    mode=${opt_mode-auto} port=${opt_port-19092} host=${opt_host-$LOOPBACK} topic=${opt_topic-events}
    partitions=${opt_partitions-12} version=${opt_version-$(pinned_version)} secure=${opt_secure-}
    cluster_id=$(head -c 16 /dev/urandom | base64 | tr '+/' 'ab' | tr -d '=')
    choose_mode
    check_disk
    fresh=yes
  fi
  prepare
  for n in 1 2 3; do
    if [[ -z $("${mode}_pid" "$n") ]]; then dead+=("$n"); fi
  done
  check_ports ${dead[@]+"${dead[@]}"}

  guard
  "${mode}_fetch"
  mkdir -p "$data"
  save
  if [[ $secure ]]; then secure_files; fi
  launch_ms=$(now_ms) # fetching Kafka does not count against the brokers
  for n in ${dead[@]+"${dead[@]}"}; do launch "$n"; done
  for n in 1 2 3; do wait_up "$n" "$launch_ms"; done
  if [[ $topic ]]; then make_topic "$topic" "$partitions" "$launch_ms"; fi
  trap - EXIT
  log info "$( ((${#dead[@]} > 0)) && echo cluster_up || echo cluster_already_up)" \
    "mode=$mode version=$version brokers=$(bootstrap) data=$data started=${#dead[@]} ms=$(($(now_ms) - since))"
  bootstrap
}

fetch() {
  mode=${opt_mode-auto} host=$LOOPBACK secure='' version=${opt_version-$(pinned_version)}
  choose_mode
  prepare
  guard
  "${mode}_fetch"
  trap - EXIT
}

pinned_version() { sed -n 's|.*<kafka.version>\(.*\)</kafka.version>.*|\1|p' "$here/kafka/pom.xml"; }

# What the mode's functions need, for a cluster whose settings are loaded.
prepare() {
  if [[ $mode == docker ]]; then require docker; return; fi
  require java setsid ${secure:+keytool}
  if [[ $secure ]]; then umask 077; fi # the brokers' settings hold the password, their data its hashes
  jars=${XDG_CACHE_HOME:-$HOME/.cache}/backpressure-lab/kafka-$version
}

# Kills every broker of this folder and deletes what `up` made there, the marker last, so that
# an interrupted `down` can be run again. Foreign files, and then the folder, are left alone.
remove_all() {
  local n
  if [[ ${mode-jvm} == docker ]]; then compose down -v -t 0 --remove-orphans >&2; fi
  for n in 1 2 3; do jvm_signal KILL "$n"; done
  for n in 1 2 3; do
    mode=jvm wait_gone "$n" 10 || die "broker $n (pid $(jvm_pid "$n")) does not die: is it another user's?"
  done
  if [[ -d $data ]]; then
    rm -rf -- "${data:?}"/broker-{1,2,3} "${data:?}"/secure{.new,} "${data:?}/$MARKER"{.new,}
    rmdir -- "$data" || log warn folder_kept "data=$data reason=other_files_in_it"
  fi
}

down() {
  local since found
  since=$(now_ms)
  if is_cluster; then
    load
  elif [[ -e $data ]]; then
    die "--data $data is no cluster's folder: nothing is deleted"
  else
    found=$(jvm_pids 1; jvm_pids 2; jvm_pids 3)
    if [[ -z $found ]]; then log info cluster_already_down "data=$data"; return; fi
  fi
  remove_all
  log info cluster_down "data=$data ms=$(($(now_ms) - since))"
}

status() {
  local n pid state rss all=0
  need_cluster
  for n in 1 2 3; do
    pid=$("${mode}_pid" "$n") state=down rss=0
    if [[ $pid ]]; then
      rss=$(awk '/^VmRSS/ { print int($2 / 1024) }' "/proc/$pid/status" 2>/dev/null || true)
      if "${mode}_ready" "$n"; then state=up; else state=starting; fi
    fi
    [[ $state == up ]] || all=1
    echo "broker=$n state=$state pid=${pid:--} port=$(broker_port "$n") rss_mib=${rss:--}"
  done
  return $all
}

kill_broker() {
  need_cluster
  local pid since
  since=$(now_ms) pid=$("${mode}_pid" "$1")
  if [[ -z $pid ]]; then log info broker_already_down "broker=$1"; return; fi
  "${mode}_signal" KILL "$1"
  wait_gone "$1" 10 || die "broker $1 (pid $pid) does not die: is it another user's?"
  log info broker_killed "broker=$1 pid=$pid signal=9 ms=$(($(now_ms) - since))"
}

stop_broker() {
  need_cluster
  local pid since
  since=$(now_ms) pid=$("${mode}_pid" "$1")
  if [[ -z $pid ]]; then log info broker_already_down "broker=$1"; return; fi
  "${mode}_signal" TERM "$1"
  if wait_gone "$1" "$STOP_WITHIN_S"; then
    log info broker_stopped "broker=$1 pid=$pid ms=$(($(now_ms) - since))"
  else
    log warn broker_stop_overdue "broker=$1 pid=$pid after_s=$STOP_WITHIN_S then=kill"
    kill_broker "$1"
  fi
}

start_broker() {
  need_cluster
  prepare
  local since
  since=$(now_ms)
  if [[ $("${mode}_pid" "$1") ]]; then
    log info broker_already_started "broker=$1"
    wait_up "$1" "$since"
    return
  fi
  check_ports "$1"
  guard
  "${mode}_fetch"
  since=$(now_ms)
  launch "$1"
  wait_up "$1" "$since"
  trap - EXIT
}

topics() {
  local since out
  since=$(now_ms)
  need_cluster
  prepare
  case ${args[0]} in
    create) make_topic "${args[1]}" "${opt_partitions-12}" "$since" ;;
    grow)
      out=$("${mode}_topics" --alter --topic "${args[1]}" --partitions "$opt_partitions" 2>&1) ||
        die "topic ${args[1]} does not grow to $opt_partitions partitions: $out"
      if [[ ${args[1]} == "$topic" ]]; then partitions=$opt_partitions; save; fi
      make_topic "${args[1]}" "$opt_partitions" "$since" ;;
    delete)
      out=$("${mode}_topics" --delete --if-exists --topic "${args[1]}" 2>&1) ||
        die "topic ${args[1]} is not deleted: $out"
      log info topic_deleted "topic=${args[1]} ms=$(($(now_ms) - since))" ;;
    list)
      out=$("${mode}_topics" --list --exclude-internal 2>&1) || die "topics are not listed: $out"
      if [[ $out ]]; then printf '%s\n' "$out"; fi ;;
  esac
}

# Kafka's own tool says it as HOST:PORT (N).
coordinator() {
  local out
  need_cluster
  prepare
  out=$("${mode}_groups" --describe --state --group "${args[0]}" 2>&1) ||
    die "group ${args[0]} is not described: $out"
  [[ $out =~ \(([123])\) ]] || die "group ${args[0]} has no coordinator: $(grep -m 1 . <<<"$out" || true)"
  echo "${BASH_REMATCH[1]}"
}

main() {
  parse "$@"
  check_values
  data=$(realpath -m -- "${opt_data-$root/.cluster}")
  check_data
  case $verb in
    kill | start | stop) check_broker ;;
    fetch | up | down | status | brokers) ((${#args[@]} == 0)) || misuse "$verb takes no '${args[0]}'" ;;
    topic) check_topic_verb ;;
    coordinator) ((${#args[@]} == 1)) || misuse 'coordinator needs one GROUP' ;;
    *) misuse "unknown verb '$verb'; allowed: $VERBS" ;;
  esac
  check_options
  case $verb in
    fetch) fetch ;;
    up) up ;;
    down) down ;;
    status) status ;;
    brokers) need_cluster; bootstrap ;;
    kill) kill_broker "${args[0]}" ;;
    stop) stop_broker "${args[0]}" ;;
    start) start_broker "${args[0]}" ;;
    topic) topics ;;
    coordinator) coordinator ;;
  esac
}

main "$@"
