#!/usr/bin/env bash
# Experiment 8: credits against the implicit channel: a bounded queue that waits, a lease on the source's rate, and
# explicit credit with windows of 20 to 640 events. Question, prediction, checks and charts are declared in
# src/lab/experiments/exp8.rs. About seven minutes after the build with --quick; 70 minutes in full.
set -euo pipefail
# shellcheck source=run/start.sh
source "$(dirname "${BASH_SOURCE[0]}")/start.sh"
start exp8 "$@"
