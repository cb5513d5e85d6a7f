#!/usr/bin/env bash
# Fuzzes the code that reads bytes from elsewhere (tests/fuzz/mod.rs), for any time, guided by
# coverage: libFuzzer, linked in by crate bolero. It needs no nightly compiler and no further tool.
# It has a build of its own, with checks for overflow, under target/fuzz; inputs that it finds there
# are kept for the next run. An input that breaks a target is written to
# tests/fuzz/__fuzz__/TARGET/crashes, and `cargo test` repeats it: commit it with the fix.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
# shellcheck source=run/prereq.sh
source "$here/prereq.sh"
# shellcheck source=run/groups.sh
source "$here/groups.sh"
cd "${here%/*}"

usage() {
  cat <<TEXT
usage: run/fuzz.sh [--time 10m] [--jobs N] [TARGET...]

Runs each target (default: all) for that long, N at a time (1), and prints what came of it.
targets: ${targets[*]}
exit: 0 nothing found, 1 something found or nothing run, 2 wrong usage
TEXT
}

wrong() { printf 'fuzz.sh: %s (see run/fuzz.sh --help)\n' "$1" >&2; exit 2; }
die() { printf 'fuzz.sh: %s\n' "$1" >&2; exit 1; }

# `targets! { event batch … }` in the test file is the list, on one line or several.
mapfile -t targets < <(awk '
  /^targets! *[{]/ { on = 1; sub(/^targets! *[{]/, "") }
  on { sub(/\/\/.*/, ""); last = sub(/[}].*/, ""); for (i = 1; i <= NF; i++) print $i; if (last) exit }
' tests/fuzz/mod.rs)
((${#targets[@]} > 0)) || die 'no target: tests/fuzz/mod.rs has no targets! { … }'
seconds=600 jobs=1 chosen=()
while (($# > 0)); do
  case $1 in
    -h | --help) usage; exit 0 ;;
    --time)
      [[ ${2-} =~ ^([1-9][0-9]*)(s|m|h)$ ]] || wrong "--time '${2-}': expected a time such as 20s, 10m or 2h"
      case ${BASH_REMATCH[2]} in s) unit=1 ;; m) unit=60 ;; h) unit=3600 ;; esac
      seconds=$((BASH_REMATCH[1] * unit))
      shift 2 ;;
    --jobs)
      [[ ${2-} =~ ^[1-9][0-9]?$ ]] || wrong "--jobs '${2-}': expected a whole number from 1 to 99"
      jobs=$2
      shift 2 ;;
    -*) wrong "unknown argument '$1'" ;;
    *)
      [[ " ${targets[*]} " == *" $1 "* ]] || wrong "unknown target '$1'"
      chosen+=("$1")
      shift ;;
  esac
done
((${#chosen[@]} > 0)) || chosen=("${targets[@]}")
require cargo cc c++ make

# What `cargo bolero test --engine libfuzzer` sets. One codegen unit: with more, coverage tables
# of parts are lost. `--target` keeps build scripts out of it.
export CARGO_PROFILE_RELEASE_CODEGEN_UNITS=1 CARGO_PROFILE_RELEASE_DEBUG=0
export CARGO_PROFILE_RELEASE_DEBUG_ASSERTIONS=true CARGO_PROFILE_RELEASE_OVERFLOW_CHECKS=true
coverage=(inline-8bit-counters level=4 pc-table trace-compares)
export RUSTFLAGS="--cfg fuzzing --cfg fuzzing_libfuzzer -Cpasses=sancov-module
  ${coverage[*]/#/-Cllvm-args=-sanitizer-coverage-}"
host=$(rustc -vV | sed -n 's/^host: //p')

# Each command is a job in a group of its own (set -m): a Ctrl-C reaches this script alone, which
# ends whole groups: a build with its compilers, a target with its program.
clean_up() {
  local code=$? started
  trap '' INT TERM HUP PIPE
  set +e
  mapfile -t started < <(jobs -pr)
  end_groups "${started[@]}"
  for target in "${chosen[@]}"; do rmdir "tests/fuzz/__fuzz__/$target/crashes"; done 2>/dev/null # where it is empty
  exit "$code"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
trap 'exit 129' HUP
set -m

# Built once: a change of the code during a long run changes nothing in it.
mkdir -p target/fuzz
cargo test --release --locked --lib --no-run --message-format json-render-diagnostics \
  --target "$host" --target-dir target/fuzz/build </dev/null >target/fuzz/build.json &
wait $! || die 'the build failed (its own words are above)'
program=$(sed -n 's/.*"executable":"\([^"]*\)".*/\1/p' target/fuzz/build.json)
[[ -x $program ]] || die 'the build left no program: see target/fuzz/build.json'

# 10 s for one input hangs; 1 GiB for one is no bound at all.
run() { # TARGET
  local found=target/fuzz/corpus/$1 own=tests/fuzz/__fuzz__/$1 log=target/fuzz/$1.log code=0 runs result=passed
  mkdir -p "$found" "$own/crashes"
  local args=(-max_total_time="$seconds" -timeout=10 -rss_limit_mb=1024 -print_final_stats=1
    -artifact_prefix="$own/crashes/" "$found" "$own/corpus")
  BOLERO_LIBFUZZER_ARGS=${args[*]} \
    "$program" --exact "fuzz::$1" --nocapture >"$log" 2>&1 || code=$?
  rmdir --ignore-fail-on-non-empty "$own/crashes"
  runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
  if ((code > 0)); then
    result="FAILED (exit $code, see $log and $own/crashes)"
  elif [[ ! $runs =~ ^[1-9] ]]; then # a name that is no test's passes too
    code=1 result="FAILED (nothing was run, see $log)"
  fi
  printf '%-14s %12s  %s\n' "$1" "${runs:-?}" "$result"
  ((code == 0))
}

printf '%-14s %12s  %s\n' target executions result
failed=0 running=0
for target in "${chosen[@]}"; do
  if ((running >= jobs)); then
    wait -n || failed=1
    running=$((running - 1))
  fi
  run "$target" </dev/null &
  running=$((running + 1))
done
while ((running > 0)); do
  wait -n || failed=1
  running=$((running - 1))
done
((failed == 0))
