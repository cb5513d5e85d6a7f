#!/usr/bin/env bash
# Experiment 9: the size of a batch: fixed, what waits, and by three rules, beside an oracle that knows the sink. Question,
# prediction, checks and charts are declared in src/lab/experiments/exp9.rs. About four minutes after the
# build with --quick; 70 minutes in full.
set -euo pipefail
# shellcheck source=run/start.sh
source "$(dirname "${BASH_SOURCE[0]}")/start.sh"
start exp9 "$@"
