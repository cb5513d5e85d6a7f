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
# Brokers that just started spend their first minute or more compiling themselves on the cores that are
# measured: a first arm is run for them alone, and no report reads it.
# shellcheck disable=SC2034 # arm reads them
load=(--schedule 4000:90s --msg-size 512 --seed 1) sink=(--rate-limit 2000)
arm warm-up --queue pull --sink-mode single

# shellcheck disable=SC2034
load=(--schedule "$schedule" --msg-size 512 --seed 1)
arm bounded --queue bounded --sink-mode single
arm pull --queue pull --sink-mode single
report
