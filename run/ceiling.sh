#!/usr/bin/env bash
# The benchmark behind the experiments: latency at 80 % of the sink's ceiling, goodput and the
# producer's schedule at four times it, batches off. Declared in src/lab/experiments/ceiling.rs.
# About six minutes after the build with --quick; the full form takes four minutes more.
# shellcheck source=run/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

begin ceiling "$@"

# shellcheck disable=SC2154 # begin sets form
if [[ $form == quick ]]; then schedule=1600:40s,8000:60s; else schedule=1600:120s,8000:100s; fi

plan --schedule "$schedule" --rate-limit 2000 --msg-size 512
warm_up

# shellcheck disable=SC2034 # arm reads them
load=(--schedule "$schedule" --msg-size 512 --seed 1) sink=(--rate-limit 2000)
arm bounded --queue bounded --sink-mode single
arm pull --queue pull --sink-mode single
report
