#!/usr/bin/env bash
# The fault matrix: a pipeline under load, one thing broken at a time, and the ledger after it. What
# is expected of each fault is declared in src/lab/experiments/faults/matrix.rs. Twenty minutes
# after the build with --quick: each fault once, queues and loads in turn; in full, an hour and three
# quarters, each under all of them.
# It runs in network and mount namespaces of its own, so it needs root, or a kernel that lets users
# have namespaces. Nothing that it does to links, disks or clocks is seen outside of them.
# shellcheck disable=SC2034 # lib.sh and the files sourced here read what is set
set -euo pipefail
self=$(realpath -- "${BASH_SOURCE[0]}")
# shellcheck source=run/prereq.sh
source "${self%/*}/prereq.sh"
# shellcheck source=run/flags.sh
source "${self%/*}/flags.sh"

# Every fault, in the order of the table.
FAULTS=(
  processor-killed processor-frozen
  broker-1-killed broker-2-killed broker-3-killed coordinator-killed two-brokers-killed broker-disk-full
  sink-killed answers-500 answers-429 answers-hang answers-cut answers-partial
  broker-link-cut broker-link-delayed broker-link-lossy sink-link-cut sink-link-delayed sink-link-lossy
  results-disk-full clock-back partitions-added topic-anew retention
)
# Every queue and load, in such an order that neighbours differ in both.
CASES=('bounded 8000' 'pull 1500' 'unbounded 8000' 'bounded 1500' 'pull 8000' 'unbounded 1500')

# Seconds: before the fault, after it.
readonly BEFORE_S=7 AFTER_S=14 AFTER_SLOW_S=30

one_of() { # WORD LIST...
  local word
  for word in "${@:2}"; do
    if [[ $word == "$1" ]]; then return 0; fi
  done
  return 1
}

# What this script takes and run/lib.sh does not: names of faults, and one case.
only=() passed=() one_case='' help=''
while (($# > 0)); do
  case $1 in
    -h | --help) help=yes passed+=("$1"); shift ;;
    --case=*) set -- --case "${1#*=}" "${@:2}" ;;
    --case)
      one_of "${2-}" "${CASES[@]/ /:}" || misuse "--case '${2-}': allowed: ${CASES[*]/ /:}"
      one_case=$2
      shift 2 ;;
    --out | --data | --port) # whose value may be called as a fault is
      passed+=("${@:1:2}")
      shift $(($# > 1 ? 2 : 1)) ;;
    *)
      if one_of "$1" "${FAULTS[@]}"; then only+=("$1"); else passed+=("$1"); fi
      shift ;;
  esac
done

if [[ ! ${LAB_FAULTS_INSIDE-} && ! $help ]]; then
  require "${RUN_NEEDS[@]}" unshare nsenter ip tc mount fallocate
  as=(unshare --net --mount)
  ((EUID == 0)) || as+=(--user --map-root-user)
  "${as[@]}" true || {
    echo "faults.sh: no namespaces of its own (its words are above): run it as root, as by 'sudo env PATH=\$PATH HOME=\$HOME run/faults.sh'; target/ and results/ are root's then" >&2
    exit 1
  }
  # Inside there is no network but its own.
  "${self%/*}/cluster.sh" fetch --mode jvm
  cargo fetch --locked --manifest-path "${self%/*}/../Cargo.toml"
  [[ ! $one_case ]] || set -- --case "$one_case"
  exec env LAB_FAULTS_INSIDE=1 "${as[@]}" "$self" "$@" ${only[@]+"${only[@]}"} ${passed[@]+"${passed[@]}"}
fi

cluster_folder=.cluster-faults
# shellcheck source=run/lib.sh
source "${self%/*}/lib.sh"
# shellcheck source=run/hosts.sh
source "$here/hosts.sh"
# shellcheck source=run/disks.sh
source "$here/disks.sh"
# shellcheck source=run/clock.sh
source "$here/clock.sh"

usage() {
  cat <<TEXT
usage: run/faults.sh [--quick] [--case QUEUE:LOAD] [--out DIR] [--data DIR] [--port P] [FAULT...]

  --quick      each fault once, queues and loads in turn (about 20 minutes; without: 110)
  --case C     each fault under this queue and load only: ${CASES[*]/ /:}
  --out DIR    folder of the results (default results/faults)
  --data DIR   the cluster's folder (default .cluster-faults)
  --port P     the cluster's first port (default 19092)
  FAULT...     these faults only: ${FAULTS[*]}

exit: 0 all checks hold, 1 failed, 2 wrong usage, 3 a check fell short
TEXT
}

if [[ ! ${LAB_FAULTS_INSIDE-} ]]; then
  usage
  exit 0
fi

# --- marks -------------------------------------------------------------------------------------
now_us() { echo "${EPOCHREALTIME/[.,]/}"; }
rest() { sleep "$1" 7>&- 9>&- & resting=$!; wait "$resting"; resting=''; } # SECONDS; a signal ends it
begins() { began_us=$(now_us); }
ends() { ended_us=$(now_us); }
saw() { noted=$*; log info seen "fault=$fault what='$*'"; }

# kill9 NAME: and nobody wonders that it is gone.
kill9() {
  note kill -KILL "${pids[$1]}"
  kill -KILL "${pids[$1]}"
  wait "${pids[$1]}" 2>/dev/null || true
  unset "pids[$1]"
}

# --- the faults: each begins, breaks, heals, ends ----------------------------------------------
# Where something is started again, which takes its time, the fault ends when that begins: what is seen
# meanwhile may be its doing already.
fault_processor_killed() {
  begins; kill9 processor
  rest 1
  ends; member processor-2
}
fault_processor_frozen() {
  begins; note kill -STOP "${pids[processor]}"; kill -STOP "${pids[processor]}"
  rest 10
  note kill -CONT "${pids[processor]}"; kill -CONT "${pids[processor]}"; ends
}

brokers_die() { # SECONDS N...
  local n
  begins
  for n in "${@:2}"; do note run/cluster.sh kill "$n"; cluster kill "$n"; done
  rest "$1"; ends
  for n in "${@:2}"; do note run/cluster.sh start "$n"; cluster start "$n"; done
}
# The controllers take a broker for dead after 9 s, and it was 16 s until every partition moved again;
# others must have led for a while by then.
fault_broker_1_killed() { brokers_die 25 1; }
fault_broker_2_killed() { brokers_die 25 2; }
fault_broker_3_killed() { brokers_die 25 3; }
fault_two_brokers_killed() { brokers_die 6 1 2; }
fault_coordinator_killed() {
  local was now
  was=$(cluster coordinator "$topic")
  brokers_die 25 "$was"
  now=$(cluster coordinator "$topic")
  if [[ $now != "$was" ]]; then saw "broker $was was the coordinator, $now is"; fi
}
fault_broker_disk_full() {
  local pid after=0
  pid=$(broker_pid 2)
  begins; fill_disk 2
  while kill -0 "$pid" 2>/dev/null; do
    rest 1
    after=$((after + 1))
    ((after < 8)) || break
  done
  kill -0 "$pid" 2>/dev/null || saw "the broker halted itself after $after s"
  rest $((8 - after))
  ends; free_disk 2; cluster start 2
}
broker_pid() { cluster status | sed -n "s/^broker=$1 .*pid=\([0-9]*\).*/\1/p"; }

fault_sink_killed() {
  begins; kill9 sink
  rest 3
  ends; start sink-2 "$bin/sink" --listen "$sink_on" "${sink[@]}"
}

chaos() { # FLAGS...
  begins; run_and_note "$bin/chaos" "$@" --sink "http://$sink_at" >>"$dir/chaos.log"; ends
}
fault_answers_500() { chaos fail --how 500 --for 8s; }
fault_answers_429() { chaos fail --how 429 --for 8s; }
fault_answers_hang() { chaos pause --for 8s; }
fault_answers_cut() { chaos fail --how cut --for 8s; }
fault_answers_partial() { chaos fail --how partial --for 8s; }

# What was dropped or held up says that the link is harmed; a new connection from the processor's host,
# how that feels.
link() { # cut|delay|lose LINK SECONDS ADDRESS:PORT
  local from took end harmed how=dropped
  [[ $1 != delay ]] || how='held up'
  begins; network "$1" "$2"
  end=$((SECONDS + $3))
  rest 3 # a bottleneck has filled by then
  from=$(now_us)
  if "${at_processor[@]}" timeout 4 bash -c ": <>/dev/tcp/${4%:*}/${4#*:}" 2>/dev/null; then
    took="$((($(now_us) - from) / 1000)) ms"
  else
    took='no connection in 4 s'
  fi
  rest $((end - SECONDS))
  harmed=$(network_harmed "$1" "$2")
  if ((harmed > 0)) && [[ $1/$took != cut/*ms ]]; then
    saw "$harmed packets $how by $network_by; a connection: $took"
  fi
  network heal "$2"; ends
}
fault_broker_link_cut() { link cut brokers 12 "${brokers%%,*}"; }
fault_broker_link_delayed() { link delay brokers 10 "${brokers%%,*}"; }
fault_broker_link_lossy() { link lose brokers 10 "${brokers%%,*}"; }
fault_sink_link_cut() { link cut sink 12 "$sink_at"; }
fault_sink_link_delayed() { link delay sink 10 "$sink_at"; }
fault_sink_link_lossy() { link lose sink 10 "$sink_at"; }

fault_results_disk_full() {
  local before
  before=$(wc -l <"$dir/samples.jsonl")
  begins; fill_folder "$dir"
  rest 8
  if (($(wc -l <"$dir/samples.jsonl") <= before + 2)); then saw 'no sample was written meanwhile'; fi
  free_folder "$dir"; ends
}
# One step meets a wait of librdkafka's or, when an answer just comes, none: four do not all miss.
fault_clock_back() {
  local seconds
  begins
  for seconds in 60 120 180 3600; do step_clock "-$seconds"; rest 0.37; done
  ends
}
fault_partitions_added() {
  begins; note run/cluster.sh topic grow "$topic" --partitions 18
  cluster topic grow "$topic" --partitions 18
  # One that is started now knows all of them. Its ids are beyond the first one's.
  start producer-2 "$bin/producer" --brokers "$brokers" --topic "$topic" --listen 127.0.0.1:0 \
    --rate 500 --first-id 100000000 --msg-size 512 --seed 2
  ends
}
fault_topic_anew() {
  begins; note run/cluster.sh topic delete "$topic"
  cluster topic delete "$topic"
  rest 2
  note run/cluster.sh topic create "$topic" --partitions "$PARTITIONS"
  cluster topic create "$topic" --partitions "$PARTITIONS"; ends
}
fault_retention() { begins; rest 20; ends; }

# --- a row -------------------------------------------------------------------------------------
# One that takes another's place has its address, so that the watch finds it there.
member() { # NAME
  processor_on=10.199.3.2:9902
  if [[ ${pids[processor]-} ]]; then processor_on=10.199.3.2:9912; fi
  # Small fetches: that each partition has its turn can be seen within seconds.
  local flags=(--queue "$queue" --queue-cap 10000 --sink-timeout 3s --fetch-bytes 64KiB)
  # By key, so that the order of each key can be asked for; above the ceiling from one queue, so that what is
  # committed can be (src/lab/experiments/faults.rs).
  if ((offered < 2000)); then flags+=(--worker-assignment key); fi
  case $fault in
    processor-killed) flags+=(--session-timeout 6s) ;;
    processor-frozen) flags+=(--session-timeout 6s --max-poll-interval 6s) ;;
  esac
  # What is given back to a log that retention has been at is gone: there the queue is drained.
  if [[ $fault != retention ]]; then flags+=(--drain-timeout 3s); fi
  processor "$1" "${flags[@]}"
}

row() { # FAULT QUEUE LOAD
  fault=$1 queue=$2 offered=$3 noted='' began_us='' ended_us='' resting=''
  local name=$1-$2-$3 through=("${at_processor[@]}") topic_flags=() others=()
  trap row_over EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM
  trap 'exit 129' HUP
  rm -rf -- "${out:?}/$name"
  mkdir -p "$out/$name"
  : >"$out/$name/commands.txt" # whenever it ends, it is known as a folder of ours
  sink=(--rate-limit 2000)
  load=(--rate "$offered" --msg-size 512 --seed 1)
  case $fault in
    sink-killed) sink+=(--journal "$out/$name/journal.jsonl") ;;
    results-disk-full) small_folder "$out/$name" 64m ;;
    broker-disk-full) small_disk 2 2g ;;
    clock-back) own_clock "$out/$name"; through+=("${at_own_clock[@]}") ;;
    retention) topic_flags=(--config segment.bytes=1048576 --config retention.bytes=2000000) ;;
  esac
  arm_begins "$name"
  member processor
  if [[ $fault == processor-frozen ]]; then member processor-2; fi
  arm_starts
  rest "$BEFORE_S"
  alive
  "fault_${fault//-/_}"
  printf '{"fault": "%s", "queue": "%s", "offered": %s, "began_us": %s, "ended_us": %s, "note": "%s"}\n' \
    "$fault" "$queue" "$offered" "$began_us" "$ended_us" "$noted" >"$dir/fault.json"
  case $fault in
    two-brokers-killed | topic-anew | *-link-cut) rest "$AFTER_SLOW_S" ;;
    *) rest "$AFTER_S" ;;
  esac
  alive
  stop producer
  # What it takes after the processor's end, the processor cannot count.
  if [[ $fault == retention ]]; then rest 4; fi
  if [[ ${pids[producer-2]-} ]]; then stop producer-2; others=(producer-2); fi
  # What the new sink is called in lib.sh.
  if [[ ${pids[sink-2]-} ]]; then pids[sink]=${pids[sink-2]}; unset 'pids[sink-2]'; fi
  arm_ends ${others[@]+"${others[@]}"}
}

# However a row ends, the next one finds nothing of it.
row_over() {
  local code=$? name
  # Caught, not ignored: a broker that is started here would ignore them too, and never stop in order.
  trap : INT TERM HUP PIPE
  set +e
  [[ ! $resting ]] || kill "$resting" 2>/dev/null # it would keep the namespaces until it is over
  for name in "${!pids[@]}"; do kill -CONT "${pids[$name]}" 2>/dev/null; kill -TERM "${pids[$name]}" 2>/dev/null; done
  for name in "${!pids[@]}"; do
    await_end "${pids[$name]}" "$ABORT_WITHIN_S" || kill -KILL "${pids[$name]}" 2>/dev/null
    wait "${pids[$name]}" 2>/dev/null
  done
  network heal brokers
  network heal sink
  cluster up >/dev/null || code=1 # a broker may be down
  [[ ! $topic ]] || cluster topic delete "$topic"
  case $fault in
    results-disk-full) small_folder_gone "$dir" ;;
    broker-disk-full) small_disk_gone 2 ;;
  esac
  exit "$code"
}

# Rows run one after the other, each in a shell of its own: one that breaks is a row that has no
# verdict, not the end of the run.
run_row() { # FAULT QUEUE LOAD
  local code=0
  # In a process group of its own: a Ctrl-C at the terminal reaches this script alone, which tells it
  # once. A second signal in the middle of its clean-up would end that.
  set -m
  row "$@" &
  running=$!
  set +m
  wait "$running" || code=$?
  running=''
  # One that broke has no verdict, however much of it is there.
  if ((code != 0)); then rm -f -- "$out/$1-$2-$3/fault.json"; fi
  log info row_ended "fault=$1 queue=$2 load=$3 exit=$code seconds=$SECONDS"
  ((code < 128)) || exit "$code"
}

faults_over() {
  local code=$?
  trap '' INT TERM HUP PIPE
  set +e # from here on: what fails must not keep the rest from being cleaned up
  if [[ ${running-} ]]; then kill -TERM "$running" 2>/dev/null; wait "$running"; fi
  hosts_down
  (exit "$code")
  clean_up
}

# --- everything --------------------------------------------------------------------------------
ip link set lo up
hosts_up
# The token that everything asks for which does not listen on loopback.
LAB_TOKEN=$(head -c 24 /dev/urandom | base64 | tr '+/' 'ab')
export LAB_TOKEN
cluster_flags=(--host 10.199.1.1 --mode jvm) sink_on=10.199.2.1:9900
# Half of what 1,500 events/s need: where the kernel has no netem, what is late is late for that.
bottleneck_rate=4mbit
begin faults ${passed[@]+"${passed[@]}"}
trap faults_over EXIT
plan

# In the quick form a fault has the case of its place in the table, whichever faults are run.
cases_of() { # FAULT PLACE
  cases=("${CASES[@]}")
  if [[ $1 == topic-anew || $1 == retention ]]; then cases=('bounded 8000') # only what waits in the log is lost with it
  elif [[ $one_case ]]; then cases=("${one_case/:/ }")
  elif [[ $form == quick ]]; then cases=("${CASES[$2 % ${#CASES[@]}]}")
  fi
}

rows=()
for place in "${!FAULTS[@]}"; do
  fault=${FAULTS[place]}
  ((${#only[@]} == 0)) || one_of "$fault" "${only[@]}" || continue
  cases_of "$fault" "$place"
  for case in "${cases[@]}"; do rows+=("$fault $case"); done
done
echo "${#rows[@]}" >"$out/rows" # for the report: so many are to run to their end
for row in "${rows[@]}"; do
  read -r fault queue offered <<<"$row"
  run_row "$fault" "$queue" "$offered"
done
report
