#!/usr/bin/env bash
# Experiment 7: the policies under the same load: buffer, spill, shed (also with the capacity that the target gives, and
# by a PID controller), slow-source and credit. Question, prediction, checks and charts are declared in
# src/lab/experiments/exp7.rs. About nine minutes after the build with --quick; 52 minutes in full.
set -euo pipefail
# shellcheck source=run/start.sh
source "$(dirname "${BASH_SOURCE[0]}")/start.sh"
start exp7 "$@"
