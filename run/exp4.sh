#!/usr/bin/env bash
# Experiment 4: 1, 4 and 16 workers, round-robin and by key, uniform and Zipf keys, against a sink
# whose calls take 5 ms. Question, prediction, checks and charts are declared in
# src/lab/experiments/exp4.rs. About four minutes after the build with --quick; 12 minutes in full.
# shellcheck source=run/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

begin exp4 "$@"

# shellcheck disable=SC2154 # begin sets form
if [[ $form == quick ]]; then schedule=4000:13s; else schedule=4000:60s; fi
# shellcheck disable=SC2034 # arm reads it: one order in the log, one stream to all lanes
PARTITIONS=1
slow=(--rate-limit 100000 --latency 5ms)
# shellcheck disable=SC2034
sink=("${slow[@]}")

keys() { # SKEW
  # shellcheck disable=SC2034
  load=(--schedule "$schedule" --msg-size 512 --seed 1 --keys 100 --key-skew "$1")
}
workers() { # ARM WORKERS ASSIGNMENT
  arm "$1" --queue bounded --queue-cap 1600 --sink-mode single --sink-workers "$2" \
    --worker-assignment "$3" --drain-timeout 1s
}

plan --schedule "$schedule" "${slow[@]}" --msg-size 512 --queue-cap 1600
keys 0
workers single 1 round-robin
for kind in uniform zipf; do
  if [[ $kind == zipf ]]; then keys 1; fi
  for n in 4 16; do
    workers "rr$n-$kind" "$n" round-robin
    workers "key$n-$kind" "$n" key
  done
done
report
