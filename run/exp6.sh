#!/usr/bin/env bash
# Experiment 6: three members of a group, one of which polls too rarely; then each cure by itself,
# and a steady run. Question, prediction, checks and charts are declared in
# src/lab/experiments/exp6.rs. About five minutes after the build with --quick; 45 minutes in full.
# shellcheck source=run/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

begin exp6 "$@"

# shellcheck disable=SC2154 # begin sets form
if [[ $form == quick ]]; then
  faulty=1500:12s,150:26s cured=1500:12s,150:12s long=1500:62s,150:12s steady=2400:30s
else
  faulty=1500:12s,150:48s cured=1500:2m,150:48s long=1500:5m,150:48s steady=2400:30m
fi
# shellcheck disable=SC2034 # arm reads it
sink=(--rate-limit 600)

plan --schedule "$faulty" --rate-limit 600 --msg-size 512 --queue-cap 100

# The first member is the one that differs; the others are as they should be. Each cure has more than one
# of its own intervals of overload.
group() { # ARM SCHEDULE INTERVAL-OF-THE-FIRST OTHER-FLAGS-OF-THE-FIRST...
  local common=(--queue bounded --queue-cap 100 --batch-size 10 --session-timeout 6s)
  # shellcheck disable=SC2034
  load=(--schedule "$2" --msg-size 512 --seed 1)
  arm_begins "$1"
  processor processor-1 "${common[@]}" --max-poll-interval "$3" "${@:4}"
  processor processor-2 "${common[@]}" --max-poll-interval 6s
  processor processor-3 "${common[@]}" --max-poll-interval 6s
  arm_runs
}

group naive "$faulty" 6s --keepalive off --fetch-bytes 1MiB --answer-bytes 4MiB
group small-fetch "$cured" 6s --keepalive off --fetch-bytes 1KiB
group interval "$long" 60s --keepalive off --fetch-bytes 1MiB --answer-bytes 4MiB
group decoupled "$cured" 6s --keepalive on --fetch-bytes 1MiB --answer-bytes 4MiB
group steady "$steady" 6s
report
