#!/usr/bin/env bash
# Experiment 2: pull against unbounded push, with the same overload of four times the sink's rate.
# Does the difference wait in the log or in the heap? Question, prediction, checks and charts are
# declared in src/lab/experiments/exp2.rs. About four minutes after the build with --quick.
set -euo pipefail
# shellcheck source=run/start.sh
source "$(dirname "${BASH_SOURCE[0]}")/start.sh"
start exp2 "$@"
