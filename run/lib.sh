# shellcheck shell=bash
# Sourced by run/faults.sh: what each row of the matrix is made of. (Experiments are run by `lab run`.)
#
#   begin NAME ARGS...     flags, prerequisites, build, cluster
#   plan                   the prediction and the host, written before anything is measured
#   arm_begins NAME        topic, sink
#   processor NAME FLAGS...
#   arm_starts             the group holds every partition -> producer -> watch
#   arm_ends PRODUCERS...  processors stopped, audit, topic away
#   report                 report.md, verdict.json; the script's exit code
#
# It stops what it started, by pid, however it ends, deletes its own topics only, and takes the
# cluster down only if it brought it up. It decides nothing about what is measured or expected.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
root=${here%/*}
# shellcheck source=run/prereq.sh
source "$here/prereq.sh"
# shellcheck source=run/flags.sh
source "$here/flags.sh"
# shellcheck source=run/ours.sh
source "$here/ours.sh"
# What is logged at info is read here and by the reports: where a program listens, what it counted.
unset LAB_LOG

# Seconds: for a program to say where it listens, for the group to hold all partitions, for an
# orderly stop (the processor drains for at most 10 s and commits), for the stop of a broken run.
readonly LISTEN_WITHIN_S=20 JOIN_WITHIN_S=40 STOP_WITHIN_S=60 ABORT_WITHIN_S=3
# An experiment may have its own: partitions of each arm's topic and how else it is made, where the
# sink and the processors listen, what the processors are run through, how the cluster is started.
PARTITIONS=12 topic_flags=() sink_on=127.0.0.1:0 processor_on=127.0.0.1:0 through=() cluster_flags=()

declare -A addresses=() # of what runs now, by name, as its pids
topic='' experiment=''

# --- begin -----------------------------------------------------------------------------------
begin() { # EXPERIMENT ARGS...
  experiment=$1
  shift
  read_flags "$root/results/$experiment" "$@"
  require "${RUN_NEEDS[@]}"
  trap clean_up EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM
  trap 'exit 129' HUP
  lock_cluster
  claim_folder # only now: what lies there may be the figures of the run that has the cluster
  # From here on paths are as short as they can be, so that commands.txt reads anywhere.
  cd "$root"
  out=$(realpath --relative-base="$root" -- "$out")
  build
  start_cluster
}

start_cluster() {
  have_cluster
  # Beside the cluster's own ports and the same for every arm, so that a page stays open.
  local first=${brokers%%,*}
  live=127.0.0.1:$((${first##*:} + 200))
  log info live_page "url=http://$live/" "while='an arm runs'"
}

# --- plan --------------------------------------------------------------------------------------
plan() {
  "$bin/lab" plan --experiment "$experiment" --form "$form" --source "$root" \
    --kafka "$(sed -n 's/^version=//p' "$data/backpressure-lab.cluster")" "$out"
}

# --- arm -----------------------------------------------------------------------------------------
# The load and the sink are arrays, load=(producer flags) and sink=(sink flags).
# shellcheck disable=SC2154
arm_begins() { # NAME
  arm=$1 dir=$out/$1 processors=()
  mkdir -p "$dir"
  log info arm_begins "experiment=$experiment arm=$arm"
  topic=$experiment-$arm-$$
  local made=("$topic" --partitions "$PARTITIONS" ${topic_flags[@]+"${topic_flags[@]}"})
  note run/cluster.sh topic create "${made[@]}"
  cluster topic create "${made[@]}"
  start sink "$bin/sink" --listen "$sink_on" "${sink[@]}"
  sink_at=$address producer_at=$(free_address)
}

# One member of the group. `@producer` among its flags is where the producer will listen.
processor() { # NAME PROCESSOR-FLAGS...
  local name=$1 flags=("${@:2}")
  flags=("${flags[@]//@producer/http://$producer_at}")
  start "$name" ${through[@]+"${through[@]}"} "$bin/processor" \
    --brokers "$brokers" --topic "$topic" --group "$topic" --sink "http://$sink_at" --listen "$processor_on" \
    --hlog "$dir/${name/processor/latency}.hlog" --shed-ids "$dir/${name/processor/shed}.ids" \
    "${flags[@]}"
  processors+=("$name")
  addresses[$name]=$address
}

# shellcheck disable=SC2154
arm_starts() {
  local name at named watched=() pages="sink=http://$sink_at/metrics"
  await_group
  start producer "$bin/producer" --brokers "$brokers" --topic "$topic" --listen "$producer_at" "${load[@]}"
  while read -r named _ at _; do # broker=N state=up pid=P ...
    # A container's may be another machine's.
    if [[ $at == pid=[0-9]* ]] && grep -qa kafka "/proc/${at#pid=}/cmdline" 2>/dev/null; then
      watched+=(--process "${named/=/-}=${at#pid=}")
    fi
  done < <(cluster status)
  for name in sink "${processors[@]}" producer; do watched+=(--process "$name=${pids[$name]}"); done
  for name in "${processors[@]}"; do pages+=",$name=http://${addresses[$name]}/metrics"; done
  start watch "$bin/lab" watch --brokers "$brokers" --topic "$topic" --group "$topic" \
    "${watched[@]}" --metrics "$pages,producer=http://$producer_at/metrics" \
    --out "$dir" --listen "$live" --sink "http://$sink_at"
}

# The producer has ended. Its summary, and those of others that were started beside it, are audited.
arm_ends() { # OTHER-PRODUCERS...
  local name audited=(--producer "$dir/producer.json")
  for name; do audited+=(--producer "$dir/$name.json"); done
  for name in "${processors[@]}"; do
    audited+=(--processor "$dir/$name.json" --shed-ids "$dir/${name/processor/shed}.ids")
    [[ ! ${pids[$name]-} ]] || stop "$name"
  done
  # Exit 3, ids missing, is for the report to say.
  run_and_note "$bin/lab" audit --brokers "$brokers" --topic "$topic" --group "$topic" \
    --sink "http://$sink_at" "${audited[@]}" \
    --out "$dir/ledger.json" || (($? == 3)) || die "arm $arm has no ledger"
  stop watch
  stop sink
  cluster topic delete "$topic"
  topic=''
  log info arm_ended "experiment=$experiment arm=$arm"
}

# Every partition is held before anything is produced.
await_group() {
  local end=$((SECONDS + JOIN_WITHIN_S)) held=0 name one
  until ((held == PARTITIONS)); do
    ((SECONDS < end)) || broken "${processors[0]}" "and its group hold $held of $PARTITIONS partitions after $JOIN_WITHIN_S s"
    alive
    sleep 0.2
    held=0
    for name in "${processors[@]}"; do
      one=$(metric "${addresses[$name]}" processor_partitions)
      # In a rebalance a partition may be counted twice or not at all: a member without any is one.
      if [[ ! $one || $one == 0 ]]; then held=0; break; fi
      held=$((held + one))
    done
  done
}

# Keeps a command as it could be typed.
note() {
  local word line=''
  for word in "$@"; do
    [[ $word =~ ^[A-Za-z0-9_./:=,@%+-]+$ ]] || printf -v word %q "$word"
    line+=" $word"
  done
  printf '%s\n' "${line# }" >>"$dir/commands.txt"
}
run_and_note() { note "$@"; "$@"; }

# start NAME COMMAND...: in a session of its own, so that a Ctrl-C in the terminal reaches this
# script alone, which then stops things in order. Sets address to where it listens.
start() {
  local name=$1 err=$dir/$1.log end=$((SECONDS + LISTEN_WITHIN_S))
  shift
  note "$@"
  if [[ $name == watch && -t 2 ]]; then
    setsid "${tied[@]}" "$@" </dev/null >"$dir/$name.json" 7>&- 9>&- & # its progress line is for the terminal
    pids[$name]=$!
    return
  fi
  : >"$err" # before it is looked into
  setsid "${tied[@]}" "$@" </dev/null >"$dir/$name.json" 2>"$err" 7>&- 9>&- &
  pids[$name]=$!
  until address=$(grep -m 1 -oE '(addr|listen)="?[0-9.]+:[0-9]+' "$err" | grep -oE '[0-9.]+:.*'); do
    alive
    ((SECONDS < end)) || broken "$name" "does not listen after $LISTEN_WITHIN_S s"
    sleep 0.05
  done
}

# metric ADDRESS NAME: the value of a metric without labels, empty when it cannot be read.
metric() {
  {
    exec 8<>"/dev/tcp/${1%:*}/${1#*:}" &&
      printf 'GET /metrics HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n' "$1" >&8 &&
      timeout 2 cat <&8 | sed -n "s/^$2 \([0-9.]*\)\r*$/\1/p"
  } 2>/dev/null || true
  exec 8>&-
}

broken() { # NAME WHAT
  echo "last lines of $dir/$1.log:" >&2
  tail -n 15 "$dir/$1.log" >&2 || true
  die "the $1 $2 (everything it said: $dir/$1.log)"
}

# Dies when something that should run has ended.
alive() {
  local name
  for name in "${!pids[@]}"; do
    kill -0 "${pids[$name]}" 2>/dev/null || ended "$name"
  done
}

ended() { # NAME
  local code=0
  wait "${pids[$1]}" || code=$?
  unset "pids[$1]"
  broken "$1" "ended too early, with exit code $code"
}

# A free port on loopback, for a server whose address must be known before it starts.
free_address() {
  local port used
  used=$(ss -Hltn)
  while :; do
    port=$((20000 + RANDOM % 12000))
    if [[ $used != *:$port\ * ]]; then echo "127.0.0.1:$port"; return; fi
  done
}

# stop NAME: SIGTERM, and everything it has to say must have been said with exit code 0.
stop() {
  local pid=${pids[$1]} code=0
  note kill -TERM "$pid"
  kill -TERM "$pid" 2>/dev/null || ended "$1"
  await_end "$pid" "$STOP_WITHIN_S" || broken "$1" "did not stop within $STOP_WITHIN_S s of SIGTERM"
  wait "$pid" || code=$?
  unset "pids[$1]"
  ((code == 0)) || broken "$1" "stopped with exit code $code"
}

await_end() { # PID SECONDS
  local end=$((SECONDS + $2))
  while kill -0 "$1" 2>/dev/null; do
    ((SECONDS <= end)) || return 1
    sleep 0.05
  done
}

# --- report and end ------------------------------------------------------------------------------
report() { "$bin/lab" report --experiment "$experiment" "$out"; }

clean_up() {
  local code=$? name
  trap '' INT TERM HUP PIPE # a second Ctrl-C must not leave half of it
  set +e
  for name in "${!pids[@]}"; do signal TERM "${pids[$name]}"; done
  for name in "${!pids[@]}"; do
    await_end "${pids[$name]}" "$ABORT_WITHIN_S" || signal KILL "${pids[$name]}"
    wait "${pids[$name]}" 2>/dev/null
    log warn stopped_early "name=$name pid=${pids[$name]}"
  done
  if [[ $cluster_is_ours ]]; then
    cluster down || code=1
  elif [[ $topic ]]; then
    cluster topic delete "$topic" || code=1
  fi
  if [[ $code == 130 || $code == 143 || $code == 129 ]]; then log warn interrupted "experiment=$experiment"; fi
  unlock_cluster
  exit "$code"
}
