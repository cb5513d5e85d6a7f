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

usage() {
  cat <<'TEXT'
usage: run/all.sh [--quick] [--out DIR] [--data DIR] [--port P]

  --quick      the short form of each
  --out DIR    folder of the results (default results): DIR/exp1 ... DIR/exp7, DIR/index.html
  --data DIR   the cluster's folder, as for run/cluster.sh (default .cluster)
  --port P     the cluster's first port (default 19092)

exit: 0 all checks hold, 1 failed or void, 2 wrong usage, 3 a check fell short
TEXT
}

read_flags "$root/results" "$@"
require cargo cc c++ make java mvn setsid flock ss
quick=()
# shellcheck disable=SC2154 # read_flags sets form, data, out, port
if [[ $form == quick ]]; then quick=(--quick); fi

cluster_is_ours='' running=''
clean_up() {
  local code=$?
  trap '' INT TERM HUP
  set +e
  if [[ $running ]]; then kill -TERM "$running" 2>/dev/null; wait "$running"; fi
  [[ ! $cluster_is_ours ]] || "$here/cluster.sh" down --data "$data" || code=1
  exit "$code"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
trap 'exit 129' HUP

cd "$root"
cargo build --release --locked --bins >&2
bin=${CARGO_TARGET_DIR:-target}/release
if ! "$here/cluster.sh" brokers --data "$data" >/dev/null 2>&1; then
  cluster_is_ours=yes
  "$here/cluster.sh" up --topic '' --min-disk "$(disk_needed)" --data "$data" ${port[@]+"${port[@]}"} >/dev/null
fi

# All run even when one falls short: the page shows which. A failure outweighs a verdict.
worst=0
for n in 1 2 3 4 5 6 7; do
  code=0
  # In the background, so that a signal is not kept waiting until the experiment has ended.
  "$here/exp$n.sh" ${quick[@]+"${quick[@]}"} --out "$out/exp$n" --data "$data" &
  running=$!
  wait "$running" || code=$?
  running=''
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
