#!/usr/bin/env bash
# Long life: half an hour at four times the ceiling, over a bounded queue and by pull. Does memory,
# do threads or file descriptors grow? Declared in src/lab/experiments/longlife.rs. An hour and five
# minutes after the build, and 24 GB of disk an arm; with --quick nine minutes.
# shellcheck source=run/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

begin longlife "$@"

# shellcheck disable=SC2154 # begin sets form
if [[ $form == quick ]]; then schedule=8000:4m; else schedule=8000:30m; fi
# shellcheck disable=SC2034 # arm reads them
load=(--schedule "$schedule" --msg-size 512 --seed 1) sink=(--rate-limit 2000)

plan --schedule "$schedule" --rate-limit 2000 --msg-size 512 --queue-cap 10000
arm bounded --queue bounded --queue-cap 10000
arm pull --queue pull
report
