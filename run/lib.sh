# shellcheck shell=bash
# Sourced by run/expN.sh: runs an experiment's arms one after the other on the real cluster.
#
#   begin NAME ARGS...     flags, prerequisites, build, cluster
#   plan FLAGS...          the prediction and the host, written before anything is measured
#   arm NAME FLAGS...      topic -> sink -> processor(FLAGS) -> producer -> watch; audit; topic away
#   arm_begins NAME, processor NAME FLAGS..., arm_runs    the same with several processors;
#                          arm_runs is arm_starts, waiting for the load's end, arm_ends
#   report                 report.md, verdict.json, charts; the script's exit code
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
# shellcheck source=run/memory.sh
source "$here/memory.sh"
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

usage() {
  cat <<TEXT
usage: run/$experiment.sh [--quick] [--out DIR] [--data DIR] [--port P]

  --quick      the short form, to be had in five minutes
  --out DIR    folder of the results (default results/$experiment)
  --data DIR   the cluster's folder, as for run/cluster.sh (default .cluster)
  --port P     the cluster's first port (default 19092), of P to P+2, P+100 to P+102 and P+200;
               both let two runs go side by side

A cluster that is up in --data is used and left up; else one is started and taken down again.
One that a killed run left there is replaced.
exit: 0 all checks hold, 1 failed or void, 2 wrong usage, 3 a check fell short
TEXT
}

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
plan() { # FLAGS OF lab plan...
  "$bin/lab" plan --experiment "$experiment" --form "$form" --source "$root" \
    --kafka "$(sed -n 's/^version=//p' "$data/backpressure-lab.cluster")" "$@" "$out"
}

# --- arm -----------------------------------------------------------------------------------------
# The load and the sink are the experiment's: arrays load=(producer flags) and sink=(sink flags).
# So are, where it sets them, stall=(chaos flags) with stall_at=SECONDS into the load, and
# memory_limit=SIZE, under which the processor is run and may be killed.
stall=() stall_at='' memory_limit=''

# Brokers that just started spend their first minute or more compiling themselves on the cores that are
# measured: an arm is run for them alone, and no report reads it.
warm_up() {
  [[ $cluster_is_ours ]] || return 0
  # shellcheck disable=SC2034 # arm reads them
  local load=(--schedule 4000:90s --msg-size 512 --seed 1) sink=(--rate-limit 2000)
  arm warm-up --queue pull --sink-mode single
}

arm() { # NAME PROCESSOR-FLAGS...
  arm_begins "$1"
  processor processor "${@:2}"
  arm_runs
}

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
  if [[ $memory_limit ]]; then
    confine "$arm" "$(numfmt --from=auto "${memory_limit%B}")"
    log info memory_limit "by='$confined_by' limit=$memory_limit"
  fi
  start "$name" ${confined[@]+"${confined[@]}"} ${through[@]+"${through[@]}"} "$bin/processor" \
    --brokers "$brokers" --topic "$topic" --group "$topic" --sink "http://$sink_at" --listen "$processor_on" \
    --hlog "$dir/${name/processor/latency}.hlog" --shed-ids "$dir/${name/processor/shed}.ids" \
    "${flags[@]}"
  processors+=("$name")
  addresses[$name]=$address
}

arm_runs() {
  arm_starts
  await_load
  arm_ends
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
  [[ ! $memory_limit ]] || watched+=(--heap "http://${addresses[processor]}")
  start watch "$bin/lab" watch --brokers "$brokers" --topic "$topic" --group "$topic" \
    "${watched[@]}" --metrics "$pages,producer=http://$producer_at/metrics" \
    --out "$dir" --listen "$live" --sink "http://$sink_at"
  if [[ $memory_limit && $confined_by == watched ]]; then start_limiter; fi
  if [[ $stall_at ]]; then
    note sleep "$stall_at"
    start_stall
  fi
}

# The producer has ended. Its summary, and those of others that were started beside it, are audited.
arm_ends() { # OTHER-PRODUCERS...
  local name audited=(--producer "$dir/producer.json") last=$dir/heap-last.pb.gz
  for name; do audited+=(--producer "$dir/$name.json"); done
  for name in limiter chaos; do # they may outlive the load, and are not the next arm's
    [[ ! ${pids[$name]-} ]] || dismiss "$name"
  done
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
  unconfine
  if [[ -e $last ]]; then
    note "$bin/lab" autopsy --json "$last"
    "$bin/lab" autopsy --json "$last" >"$dir/autopsy.json"
  fi
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

# Where the kernel cannot: kills the processor once it has grown beyond the limit. Without a figure
# there is no processor, and its pid may be another's.
start_limiter() {
  local kb=$(($(numfmt --from=auto "${memory_limit%B}") / 1024)) pid=${pids[processor]} rss
  (
    while rss=$(awk '/^VmRSS/ { print $2 }' "/proc/$pid/status") && [[ $rss ]]; do
      if ((rss >= kb)); then kill -KILL "$pid"; break; fi
      sleep 0.1
    done
  ) 2>/dev/null 7>&- 9>&- &
  pids[limiter]=$!
}

start_stall() {
  # shellcheck disable=SC2016 # for the inner shell
  setsid "${tied[@]}" bash -c 'sleep "$0" && exec "$@"' "$stall_at" "$bin/chaos" stall --sink "http://$sink_at" "${stall[@]}" \
    </dev/null >"$dir/chaos.log" 2>&1 7>&- 9>&- &
  pids[chaos]=$!
  note "$bin/chaos" stall --sink "http://$sink_at" "${stall[@]}"
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

# Waits for the end of the load. A stall that ends meanwhile is fine; so is the end of a processor
# at its memory limit, which ends the arm.
await_load() {
  local who name code
  while :; do
    code=0
    wait -n -p who "${pids[@]}" || code=$?
    for name in "${!pids[@]}"; do [[ ${pids[$name]} != "$who" ]] || break; done
    unset "pids[$name]"
    case $name in
      producer) ((code == 0)) || broken producer "ended with exit code $code"; return ;;
      limiter) ;;
      chaos) ((code == 0)) || broken chaos "ended with exit code $code" ;;
      *)
        if [[ $name != processor || ! $memory_limit || $code != 137 ]]; then broken "$name" "ended too early, with exit code $code"; fi
        killed "$code"
        [[ ! ${pids[limiter]-} ]] || dismiss limiter
        stop producer
        return ;;
    esac
  done
}

killed() { # EXIT-CODE
  local at=${EPOCHREALTIME/[.,]/} kills # the locale's comma
  kills=$(oom_kills)
  printf '{"at_us": %s, "exit_code": %s, "oom_kills": %s, "limit_bytes": %s, "by": "%s"}\n' \
    "$at" "$1" "${kills:-0}" "$(numfmt --from=auto "${memory_limit%B}")" "$confined_by" >"$dir/killed.json"
  log info processor_killed "exit=$1 oom_kills=${kills:-0} by='$confined_by' limit=$memory_limit"
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

dismiss() { # NAME: of a helper, whose words and exit code nobody asks for
  signal TERM "${pids[$1]}" || true
  wait "${pids[$1]}" 2>/dev/null || true
  unset "pids[$1]"
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
  unconfine
  unlock_cluster
  exit "$code"
}
