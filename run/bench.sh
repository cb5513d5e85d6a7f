#!/usr/bin/env bash
# The race: this project's processor and producer against a franz-go program of the same job
# (benches/peers/franz-go), on the same brokers, topic, sink and bodies, in turn.
#
#   race       each queue of ours against the same of franz-go
#   producer   flat out, a new topic each time
#   curve      what an event costs by partitions, payload, workers and batch, one varied at a time
#
# Each run of a contestant (a lap) is started, watched, checked and measured by the peer's `lap`; it has
# figures only if every id arrived and every offset was committed. This script decides who runs when, and on
# what; `table` of the same program makes the medians. It stops what it started, by pid, however it ends.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
root=${here%/*}
# shellcheck source=run/prereq.sh
source "$here/prereq.sh"
# shellcheck source=run/speak.sh
source "$here/speak.sh"
# shellcheck source=run/ours.sh
source "$here/ours.sh"
unset "${!LAB_@}" # the caller's LAB_SINK or LAB_LOG is not the race's

usage() {
  cat <<'TEXT'
usage: run/bench.sh [race|producer|curve] [--quick] [--rounds N] [--events N] [--kafka VERSION]
                    [--client LIST] [--peers] [--out DIR] [--data DIR] [--port P]

  race             bounded, pull and unbounded, ours and franz-go in turn (default)
  producer         the producer flat out, ours and franz-go in turn
  curve            ours by partitions, payload, workers, batch; one is varied at a time
  --quick          200000 events and 2 rounds, and fewer points of a curve
  --rounds N       laps of each contestant (default 5, of a curve 1)
  --events N       events of a lap (default 1000000); of a curve so many of 536 B, else as many as
                   take about as long
  --kafka VERSION  Kafka release to start (default: the cluster's, see run/cluster.sh --help)
  --client LIST    which clients of ours run, where they have a choice (default wire,kafka)
  --peers          franz-go in the curve too; in the race also with fetches of 2 MiB a partition
                   ('franz-go 2MiB': faster, with more memory, than with its own default of 1 MiB)
  --out DIR        folder of the results (default results/bench): MODE.jsonl, MODE.txt, commands.txt
  --data DIR       the cluster's folder, as for run/cluster.sh (default .cluster)
  --port P         the cluster's first port (default 19092)

Needs Go beside what the other runs need. A cluster that is up in --data is used and left up; else
one is started and taken down again. One that a killed run left there is replaced.
exit: 0 done, 1 failed, or a contestant lost or did not commit something, 2 wrong usage
TEXT
}

readonly SINK_WITHIN_S=20 ABORT_WITHIN_S=3
# An event's header; payload of the default point.
readonly HEADER_BYTES=24 PAYLOAD_BYTES=512
# Beyond what any producer sends: the schedule is due at once, and the rest is how fast it is sent.
readonly FLAT_OUT=5000000

# --- flags ---------------------------------------------------------------------------------------
what=race form=full rounds='' events='' kafka='' clients=wire,kafka peers=''
# shellcheck disable=SC2034 # ours.sh's
out=$root/results/bench data=$root/.cluster port=()
while (($# > 0)); do
  case $1 in
    -h | --help) usage; exit 0 ;;
    --*=*) set -- "${1%%=*}" "${1#*=}" "${@:2}" ;;
    race | producer | curve) what=$1; shift ;;
    --peers) peers=yes; shift ;;
    --quick) form=quick; shift ;;
    --rounds | --events | --kafka | --client | --out | --data | --port)
      [[ $# -gt 1 && $2 ]] || misuse "$1 needs a value"
      case $1 in
        --rounds) [[ $2 =~ ^[1-9][0-9]{0,2}$ ]] || misuse "--rounds '$2': allowed: 1 to 999"; rounds=$2 ;;
        --events) [[ $2 =~ ^[1-9][0-9]{3,7}$ ]] || misuse "--events '$2': allowed: 1000 to 99999999"; events=$2 ;;
        --kafka) kafka=$2 ;; # run/cluster.sh says what it may be
        --out) out=$(realpath -m -- "$2") ;;
        --data) data=$(realpath -m -- "$2") ;;
        --port) port=(--port "$2") ;;
        --client) [[ $2 =~ ^(wire|kafka)(,(wire|kafka))*$ ]] || misuse "--client '$2': allowed: wire, kafka, or both with a comma"; clients=$2 ;;
      esac
      shift 2 ;;
    *) misuse "unknown argument '$1'" ;;
  esac
done
if [[ $form == quick ]]; then
  events=${events:-200000} rounds=${rounds:-$([[ $what == curve ]] && echo 1 || echo 2)}
else
  events=${events:-1000000} rounds=${rounds:-$([[ $what == curve ]] && echo 1 || echo 5)}
fi
# shellcheck disable=SC2034 # have_cluster's
if [[ $kafka ]]; then cluster_flags=(--version "$kafka"); fi

# A topic with its replicas, the one before it that is being deleted, and 1 GiB: have_cluster asks.
disk_needed() { echo "$((1024 + events * (PAYLOAD_BYTES + HEADER_BYTES) * 3 * 2 / (1 << 20)))MiB"; }

# --- start and end -------------------------------------------------------------------------------
topic='' failed=''
exec {words}>&2 # a signal may come while stderr is a file

clean_up() {
  local code=$? name end
  trap '' INT TERM HUP PIPE # a second Ctrl-C must not leave half of it
  set +e
  exec 2>&"$words"
  for name in "${!pids[@]}"; do signal TERM "${pids[$name]}"; done
  end=$((SECONDS + ABORT_WITHIN_S))
  for name in "${!pids[@]}"; do
    while kill -0 "${pids[$name]}" 2>/dev/null && ((SECONDS <= end)); do sleep 0.05; done
    if kill -0 "${pids[$name]}" 2>/dev/null; then signal KILL "${pids[$name]}"; fi
    wait "${pids[$name]}" 2>/dev/null
  done
  if [[ $cluster_is_ours ]]; then
    cluster down || code=1
  elif [[ $topic ]]; then
    cluster topic delete "$topic" || code=1
  fi
  if ((code > 128)); then log warn interrupted "what=$what"; fi
  unlock_cluster
  exit "$code"
}

# Words for whoever watches; a pipe gets none.
show() { if [[ -t 2 ]]; then printf '\r\033[K%s' "$*" >&2; fi; }

# run NAME COMMAND...: in a group of its own and waited for, so that a signal to us ends it at once.
run() {
  local name=$1 code=0
  shift
  setsid "${tied[@]}" "$@" 7>&- 9>&- &
  pids[$name]=$!
  wait "${pids[$name]}" || code=$?
  unset "pids[$name]"
  return "$code"
}

build_peer() {
  local source=benches/peers/franz-go
  peer=$(realpath -m -- "${CARGO_TARGET_DIR:-target}/franz-go/peer")
  log info building "command='go build -C $source'"
  # Whatever the user's settings say, it is built from this folder, for this machine.
  run build env -u GOOS -u GOARCH GOWORK=off GOFLAGS=-buildvcs=false go build -C "$source" -o "$peer" . >&2 ||
    die "the build of $source failed (Go's words are above; it needs Go $(sed -n 's/^go //p' "$source/go.mod") or, from 1.21 on, one that may fetch that)"
}

# Sets sink_at. The peer's sink, and one for all laps: they reset it.
start_sink() {
  local end=$((SECONDS + SINK_WITHIN_S))
  : >"$out/sink.log"
  setsid "${tied[@]}" "$peer" sink </dev/null >"$out/sink.log" 2>&1 7>&- 9>&- &
  pids[sink]=$!
  until sink_at=$(sed -n 's/.*"listen":"\([0-9.:]*\)".*/\1/p' "$out/sink.log") && [[ $sink_at ]]; do
    kill -0 "${pids[sink]}" 2>/dev/null || die "the sink ended: $(<"$out/sink.log")"
    ((SECONDS < end)) || die "the sink does not listen after $SINK_WITHIN_S s"
    sleep 0.05
  done
}

# The brokers' processes, where they are this machine's to see: for their CPU time.
find_brokers() {
  local named at
  broker_pids=()
  while read -r named _ at _; do # broker=N state=up pid=P ...
    if [[ $named == broker=* && $at == pid=[0-9]* ]] && grep -qa kafka "/proc/${at#pid=}/cmdline" 2>/dev/null; then
      broker_pids+=(--broker-pid "${at#pid=}")
    fi
  done < <(cluster status)
}

# The version of a cluster that was up already is what it is.
check_version() {
  version=$(sed -n 's/^version=//p' "$data/backpressure-lab.cluster")
  [[ ! $kafka || $kafka == "$version" ]] ||
    die "the cluster in $data is Kafka $version, not $kafka: 'run/cluster.sh down --data $data' first, or choose another --data and --port"
}

# knows PROGRAM FLAG: has it such a flag? The programs grow.
knows() { local help; help=$("$bin/$1" --help 2>&1) && [[ $help == *" $2 "* ]]; }

# Sets ours: how the contestants of PROGRAM are called, `ours` or `ours CLIENT` for each that can run.
our_contestants() { # PROGRAM
  local client list
  ours=()
  if ! knows "$1" --client; then
    ours=(ours)
    return
  fi
  IFS=, read -ra list <<<"$clients"
  for client in "${list[@]}"; do
    if [[ $client == kafka && $version == [4-9].* ]]; then
      log warn left_out "who='$client' why='crate kafka speaks to brokers up to 3.9, not $version'"
    else
      ours+=("ours $client")
    fi
  done
  ((${#ours[@]} > 0)) || die "none of --client $clients can run on Kafka $version"
}

# --- topics and laps -----------------------------------------------------------------------------
# What a lap runs on; a curve varies some.
partitions=12 payload=$PAYLOAD_BYTES workers=4 batch=200 queue=bounded transform=none
round=0 laps=0

make_topic() { # NAME
  topic=$1
  cluster topic create "$topic" --partitions "$partitions" 2>>"$out/cluster.log" ||
    die "topic $topic cannot be made (see $out/cluster.log)"
}

drop_topic() {
  cluster topic delete "$topic" 2>>"$out/cluster.log" || die "topic $topic cannot be deleted (see $out/cluster.log)"
  topic=''
}

fill_topic() { # NAME: with $events events
  show "filling $1 with $events events of $((payload + HEADER_BYTES)) B"
  make_topic "$1"
  run fill "$peer" fill --brokers "$brokers" --topic "$topic" --count "$events" --msg-size "$payload" >>"$out/fill.log" 2>&1 ||
    die "topic $topic cannot be filled: $(tail -n 1 "$out/fill.log")"
}

# Keeps a command as it could be typed.
note() {
  local line
  printf -v line ' %q' "$@"
  printf '%s\n' "${line# }" >>"$out/commands.txt"
}

# lap WHO MODE FLAGS-OF-LAP... -- COMMAND...: a line in $lines, but of the warm-up, round 0.
lap() {
  local who=$1 mode=$2 code=0 line said=$out/laps/$what-$round-${1// /-}-${2// /-}.log
  shift 2
  show "$what, round $round of $rounds: $mode, $who"
  note "$peer" lap --kind "$what" --who "$who" --mode "$mode" --round "$round" --events "$events" "$@"
  run lap "$peer" lap --kind "$what" --who "$who" --mode "$mode" --round "$round" --events "$events" \
    --value-bytes $((payload + HEADER_BYTES)) --brokers "$brokers" --topic "$topic" --log "$said" \
    ${broker_pids[@]+"${broker_pids[@]}"} "$@" >"$out/lap.json" 2>"$out/lap.err" || code=$?
  line=$(<"$out/lap.json")
  [[ $line ]] || die "a lap says nothing: $(<"$out/lap.err")"
  ((round == 0)) || printf '%s\n' "$line" >>"$lines"
  if ((code != 0)); then
    failed=yes
    show ''
    log error lap_failed "who='$who' mode='$mode' round=$round why='$(<"$out/lap.err")'"
  fi
}

consume() { # WHO MODE
  local who=$1 group=$topic-$((++laps)) command same
  same=(--brokers "$brokers" --topic "$topic" --group "$group" --sink "http://$sink_at" --queue "$queue"
    --batch-size "$batch" --sink-workers "$workers")
  if [[ $who == ours* ]]; then
    command=("$bin/processor" "${same[@]}" --listen 127.0.0.1:0)
    [[ $who == ours ]] || command+=(--client "${who#ours }")
    if [[ $has_transform ]]; then command+=(--transform "$transform"); fi
  else
    command=("$peer" pipe "${same[@]}" --transform "$transform")
    [[ $who != *2MiB ]] || command+=(--fetch-partition-bytes $((2 << 20)))
  fi
  lap "$who" "$2" --sink "http://$sink_at" --sink-pid "${pids[sink]}" --group "$group" --transform "$transform" \
    -- "${command[@]}"
}

send() { # WHO
  local same=(--brokers "$brokers" --topic "$topic" --count "$events" --msg-size "$payload") command
  if [[ $1 == ours* ]]; then
    # The schedule is over at once, and all of it is backlog.
    command=("$bin/producer" "${same[@]}" --rate "$FLAT_OUT" --linger 1ms --drain-timeout 10m --listen 127.0.0.1:0)
    [[ $1 == ours ]] || command+=(--client "${1#ours }")
  else
    command=("$peer" produce "${same[@]}")
  fi
  lap "$1" 'flat out' -- "${command[@]}"
}

# --- what can be run -----------------------------------------------------------------------------
# Round 0 is a warm-up: brokers that just started compile themselves on the cores that are measured.
race() {
  local who
  fill_topic "bench-race-$$"
  for ((round = 0; round <= rounds; round++)); do
    for queue in bounded pull unbounded; do
      ((round > 0)) || [[ $queue == bounded ]] || continue
      for who in "${ours[@]}" franz-go ${peers:+'franz-go 2MiB'}; do consume "$who" "$queue"; done
    done
  done
  drop_topic
}

producer() {
  local who
  for ((round = 0; round <= rounds; round++)); do
    for who in "${ours[@]}" franz-go; do
      make_topic "bench-producer-$$-$((++laps))"
      send "$who"
      drop_topic
    done
  done
}

# One axis at a time around the default point: 12 partitions, 512 B, 4 workers, batches of 200.
curve() {
  local all=$events n
  # The default topic's points: MODE/WORKERS/BATCH.
  local points=(default/4/200 'workers 1/1/200' 'workers 16/16/200' 'batch 1000/4/1000')
  local fewer=(1) sizes=(64 4096 65536)
  if [[ $form != quick ]]; then
    points+=('batch 50/4/50' 'batch 5000/4/5000')
    fewer=(1 3 6) sizes=(64 256 1024 4096 16384 65536)
  fi
  curve_topic 12 "$PAYLOAD_BYTES" "$all" "${points[@]}"
  # A request an event: some 15,000/s, where the default makes some 500,000.
  curve_topic 12 "$PAYLOAD_BYTES" $((all / 20)) 'batch 1/4/1'
  for n in "${fewer[@]}"; do curve_topic "$n" "$PAYLOAD_BYTES" "$all" "partitions $n/4/200"; done
  for n in "${sizes[@]}"; do curve_topic 12 "$n" "$(as_long "$n" "$all")" "payload $n/4/200"; done
}

# As many events with a payload of $1 as take about as long as $2 of the default: as many bytes, but of
# small ones, whose number is what takes time, at most twice as many events.
as_long() {
  local n=$(($2 * (PAYLOAD_BYTES + HEADER_BYTES) / ($1 + HEADER_BYTES)))
  echo $((n < 2 * $2 ? n : 2 * $2))
}

curve_topic() { # PARTITIONS PAYLOAD EVENTS POINT...
  local mode who point
  partitions=$1 payload=$2 events=$3
  shift 3
  fill_topic "bench-curve-$$-$((++laps))"
  for ((round = warm; round <= rounds; round++)); do
    for point; do
      IFS=/ read -r mode workers batch <<<"$point"
      for who in "${ours[@]}" ${peers:+franz-go}; do consume "$who" "$mode"; done
      ((round > 0)) || break # the warm-up is one point
    done
  done
  warm=1
  drop_topic
}

# The line above the table.
host() {
  local revision franz model of
  revision=$(git describe --always --dirty --abbrev=10 2>/dev/null) || revision=unknown
  franz=$(sed -n 's|.*github.com/twmb/franz-go \(v[0-9.]*\).*|\1|p' benches/peers/franz-go/go.mod)
  model=$(awk -F': ' '/^model name/ { gsub(/[^A-Za-z0-9 ().@-]/, "", $2); print $2; exit }' /proc/cpuinfo)
  case $what in
    race) of="queue of 10000, batches of $batch, $workers workers, transform $transform" ;;
    curve) of="queue bounded; default: 12 partitions, payload 512, 4 workers, batches of 200; transform $transform" ;;
    producer) of='acks of all replicas' ;;
  esac
  printf '{"kind":"host","says":"%s of %s: %s events of %s B, %s; Kafka %s, franz-go %s, %s cores of %s, load %s, %s. Medians (least-most); x: of ours to franz-go"}\n' \
    "$what" "$revision" "$events" $((payload + HEADER_BYTES)) "$of" "$version" "$franz" "$(nproc)" "${model:-unknown}" \
    "$(cut -d' ' -f1 /proc/loadavg)" "$(date -u +%FT%TZ)"
}

# --- all of it -----------------------------------------------------------------------------------
require "${RUN_NEEDS[@]}" go
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
trap 'exit 129' HUP
lock_cluster
claim_folder # only now: what lies there may be the figures of the run that has the cluster
cd "$root"
lines=$out/$what.jsonl
rm -f -- "$lines" "$out/$what.txt" "$out"/{commands.txt,cluster.log,fill.log,sink.log,lap.json,lap.err} "$out"/laps/"$what"-*
mkdir -p "$out/laps"
build
build_peer
have_cluster
check_version
find_brokers
if [[ $what == producer ]]; then
  our_contestants producer
else
  our_contestants processor
  has_transform='' warm=0
  if knows processor --transform; then has_transform=yes transform=digest; fi
  start_sink
fi
host >"$lines"
"$what"
show ''
"$peer" table "$lines" | tee "$out/$what.txt"
[[ ! $failed ]]
