#!/usr/bin/env bash
# Experiment 10: spill to disk. A stall that outlasts Kafka's retention, with a bounded queue, and with one that spills,
# whose offsets are committed after the ack or once its events are durable. Question, prediction, checks and charts
# are declared in src/lab/experiments/exp10.rs. About four minutes after the build with --quick; nine in full.
set -euo pipefail
# shellcheck source=run/start.sh
source "$(dirname "${BASH_SOURCE[0]}")/start.sh"
start exp10 "$@"
