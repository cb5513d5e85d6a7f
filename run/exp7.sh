#!/usr/bin/env bash
# Experiment 7: the policies buffer, shed (also with the capacity that the target gives) and slow-source
# under the same load. Question, prediction, checks and charts are declared in
# src/lab/experiments/exp7.rs. About six minutes after the build
# with --quick; 48 minutes in full.
set -euo pipefail
# shellcheck source=run/start.sh
source "$(dirname "${BASH_SOURCE[0]}")/start.sh"
start exp7 "$@"
