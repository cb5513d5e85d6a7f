#!/usr/bin/env bash
# Experiment 2: pull against unbounded push. The same overload, four times what the sink takes;
# does the difference wait in the log or in the heap? Question, prediction, checks and charts are
# declared in src/lab/experiments/exp2.rs. About four minutes after the build with --quick.
# shellcheck source=run/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

begin exp2 "$@"

# The excess of 6,000/s x 600 B: 0.2 GB in the quick form's minute of overload, 2.2 GB of memory
# in the full form's ten.
# shellcheck disable=SC2154 # begin sets form
if [[ $form == quick ]]; then schedule=1500:15s,8000:60s at=58 time=15; else schedule=1500:60s,8000:30m at=560 time=60; fi
needed_kb=$([[ $form == quick ]] && echo 3000000 || echo 6000000)
(($(awk '/^MemAvailable/ { print $2 }' /proc/meminfo) >= needed_kb)) ||
  die "not enough free memory for the $form form: $((needed_kb / 1000000)) GB needed for three brokers and the unbounded queue"

# shellcheck disable=SC2034 # arm reads them
load=(--schedule "$schedule" --msg-size 512 --seed 1) sink=(--rate-limit 2000)

# Towards the end the sink stalls: which poll rate follows?
# shellcheck disable=SC2034
stall=(--rate 500 --for "${time}s") stall_at=$at

plan --schedule "$schedule" --rate-limit 2000 --msg-size 512 --stall "500@${at}s:${time}s"
arm pull --queue pull
arm unbounded --queue unbounded
report
