#!/usr/bin/env bash
# Experiment 5: a steady load, and a sink that stalls for a while. Question, prediction, checks and
# charts are declared in src/lab/experiments/exp5.rs. About three and a half minutes after the build
# with --quick; 35 minutes in full.
# shellcheck source=run/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

begin exp5 "$@"

# shellcheck disable=SC2154 # begin sets form
if [[ $form == quick ]]; then schedule=1500:76s at=15 time=15; else schedule=1500:17m at=600 time=90; fi
# shellcheck disable=SC2034 # arm reads them
load=(--schedule "$schedule" --msg-size 512 --seed 1) sink=(--rate-limit 2000)
# shellcheck disable=SC2034
stall=(--rate 200 --for "${time}s") stall_at=$at

plan --schedule "$schedule" --rate-limit 2000 --msg-size 512 --queue-cap 10000 --stall "200@${at}s:${time}s"
# A short commit interval, so that the lag is a fine saw and its way back can be timed.
arm bounded --queue bounded --queue-cap 10000 --commit-interval 200ms
arm unbounded --queue unbounded --commit-interval 200ms
report
