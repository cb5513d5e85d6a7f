#!/usr/bin/env bash
# Experiment 1: unbounded against bounded. Unbounded runs under a memory limit until the kernel
# kills it; bounded, and bounded with a source that obeys, run to the end. Question, prediction,
# checks and charts are declared in src/lab/experiments/exp1.rs. About four minutes after the build
# with --quick; 65 minutes and 23 GB of disk in full.
# shellcheck source=run/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

begin exp1 "$@"

# shellcheck disable=SC2154 # begin sets form
if [[ $form == quick ]]; then schedule=1500:12s,8000:45s limit=128MiB; else schedule=1500:60s,8000:30m limit=512MiB; fi
# shellcheck disable=SC2034 # arm reads them
load=(--schedule "$schedule" --msg-size 512 --seed 1) sink=(--rate-limit 2000)

plan --schedule "$schedule" --rate-limit 2000 --msg-size 512 --queue-cap 10000 --memory-limit "$limit"
# shellcheck disable=SC2034
memory_limit=$limit
arm unbounded --queue unbounded
# shellcheck disable=SC2034
memory_limit=''
arm bounded --queue bounded --queue-cap 10000
arm slow-source --queue bounded --queue-cap 10000 --policy slow-source --producer @producer
report
