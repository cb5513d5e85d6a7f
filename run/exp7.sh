#!/usr/bin/env bash
# Experiment 7: the policies buffer, shed (also with the capacity that the target gives) and slow-source
# under the same load. Question, prediction, checks and charts are declared in
# src/lab/experiments/exp7.rs. About six minutes after the build
# with --quick; 48 minutes in full.
# shellcheck source=run/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

begin exp7 "$@"

# shellcheck disable=SC2154 # begin sets form
if [[ $form == quick ]]; then schedule=1500:12s,1600:12s,8000:36s; else schedule=1500:60s,1600:60s,8000:10m; fi
# shellcheck disable=SC2034 # arm reads them
load=(--schedule "$schedule" --msg-size 512 --seed 1) sink=(--rate-limit 2000)

plan --schedule "$schedule" --rate-limit 2000 --msg-size 512 --queue-cap 10000
arm buffer --queue bounded --queue-cap 10000 --policy buffer
arm shed --queue bounded --queue-cap 10000 --policy shed
# (2 s less a twentieth) × 2,000/s, less twice the 800 events that four workers hold: timely_cap in exp7.rs.
arm shed-2s --queue bounded --queue-cap 2200 --policy shed
arm slow-source --queue bounded --queue-cap 10000 --policy slow-source --producer @producer
report
