#!/usr/bin/env bash
# Experiment 4: 1, 4 and 16 workers, round-robin and by key, uniform and Zipf keys, against a sink
# whose calls take 5 ms. Question, prediction, checks and charts are declared in
# src/lab/experiments/exp4.rs. About four minutes after the build with --quick; 12 minutes in full.
set -euo pipefail
# shellcheck source=run/start.sh
source "$(dirname "${BASH_SOURCE[0]}")/start.sh"
start exp4 "$@"
