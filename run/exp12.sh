#!/usr/bin/env bash
# Experiment 12: who is shed: the newest, the oldest, by priority, by sojourn (CoDel), by a controller (PID),
# under the same load. Question, prediction, checks and charts are declared in
# src/lab/experiments/exp12.rs. About five minutes after the build with --quick; 65 minutes in full.
set -euo pipefail
# shellcheck source=run/start.sh
source "$(dirname "${BASH_SOURCE[0]}")/start.sh"
start exp12 "$@"
