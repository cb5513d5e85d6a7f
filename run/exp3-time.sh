#!/usr/bin/env bash
# Experiment 3 where a call costs time: batch sizes and lingers against a sink that takes 10 ms a call.
# Question, prediction, checks and charts are declared in src/lab/experiments/exp3_time.rs. About two and
# a half minutes after the build with --quick, and one and a half on brokers that just started; 14 minutes
# in full.
set -euo pipefail
# shellcheck source=run/start.sh
source "$(dirname "${BASH_SOURCE[0]}")/start.sh"
start exp3-time "$@"
