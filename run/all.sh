#!/usr/bin/env bash
# Every experiment, one after the other on one cluster, and one page that joins them: the targets,
# the verdicts, the charts. With --quick half an hour after the build; hours in full.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
root=${here%/*}
# shellcheck source=run/prereq.sh
source "$here/prereq.sh"
# shellcheck source=run/flags.sh
source "$here/flags.sh"
# shellcheck source=run/ours.sh
source "$here/ours.sh"

usage() {
  cat <<'TEXT'
usage: run/all.sh [--quick] [--out DIR] [--data DIR] [--port P]

  --quick      the short form of each
  --out DIR    folder of the results (default results): DIR/exp1 ... DIR/exp7, DIR/index.html
  --data DIR   the cluster's folder, as for run/cluster.sh (default .cluster)
  --port P     the cluster's first port (default 19092)

A cluster that is up in --data is used and left up; else one is started and taken down again.
One that a killed run left there is replaced.
exit: 0 all checks hold, 1 failed or void, 2 wrong usage, 3 a check fell short
TEXT
}

read_flags "$root/results" "$@"
require "${RUN_NEEDS[@]}"
quick=()
# shellcheck disable=SC2154 # read_flags sets form, data, out, port
if [[ $form == quick ]]; then quick=(--quick); fi

clean_up() {
  local code=$? name
  trap '' INT TERM HUP PIPE
  set +e
  for name in "${!pids[@]}"; do
    signal TERM "${pids[$name]}"
    wait "${pids[$name]}" 2>/dev/null # an experiment takes its time, and keeps to it
  done
  [[ ! $cluster_is_ours ]] || cluster down || code=1
  unlock_cluster
  exit "$code"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
trap 'exit 129' HUP

# From the first experiment to the last: between two of them nobody else takes the cluster.
lock_cluster
lock_folder
cd "$root"
build
have_cluster

# All run even when one falls short: the page shows which. A failure outweighs a verdict.
worst=0
for n in 1 2 3 4 5 6 7; do
  code=0
  # In the background, so that a signal is not kept waiting until the experiment has ended. It has
  # our descriptor 9, and so the lock.
  "${tied[@]}" "$here/exp$n.sh" ${quick[@]+"${quick[@]}"} --out "$out/exp$n" --data "$data" &
  pids[exp$n]=$!
  wait "${pids[exp$n]}" || code=$?
  unset "pids[exp$n]"
  log info experiment_ended "experiment=exp$n exit=$code seconds=$SECONDS"
  case $code in
    0) ;;
    3) ((worst != 0)) || worst=3 ;;
    *) worst=1 ;;
  esac
done
"$bin/lab" report --index "$out" || { code=$?; ((worst == 1)) || worst=$code; }
log info all_ended "exit=$worst seconds=$SECONDS page=$out/index.html"
((worst == 0)) || exit "$worst"
