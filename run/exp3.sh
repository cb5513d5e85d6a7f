#!/usr/bin/env bash
# Experiment 3: batch sizes 1, 50, 200 and 1,000 against a sink whose calls cost 0.9 tokens and
# whose events cost 0.1. Question, prediction, checks and charts are declared in
# src/lab/experiments/exp3.rs. About three and a half minutes after the build with --quick, and one
# and a half on brokers that just started; 16 minutes in full.
# shellcheck source=run/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

begin exp3 "$@"

# The upper load, 22,000/s, is above every size's ceiling; the lower below every one's.
# shellcheck disable=SC2154 # begin sets form
if [[ $form == quick ]]; then schedule=1500:16s,22000:16s; else schedule=1500:90s,22000:120s; fi
costs=(--rate-limit 2000 --call-cost 0.9 --event-cost 0.1)
# shellcheck disable=SC2034 # arm reads them
load=(--schedule "$schedule" --msg-size 512 --seed 1) sink=("${costs[@]}")

plan --schedule "$schedule" "${costs[@]}" --msg-size 512 --queue-cap 10000
warm_up
for size in 1 50 200 1000; do
  arm "b$size" --queue bounded --queue-cap 10000 --sink-mode batch --batch-size "$size" \
    --batch-linger 500ms --sink-workers 2 --drain-timeout 1s
done
report
