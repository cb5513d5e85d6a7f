#!/usr/bin/env bash
# Experiment 6: three members of a group, one of which polls too rarely; then each cure by itself,
# and a steady run. Question, prediction, checks and charts are declared in
# src/lab/experiments/exp6.rs. About five minutes after the build with --quick; 45 minutes in full.
set -euo pipefail
# shellcheck source=run/start.sh
source "$(dirname "${BASH_SOURCE[0]}")/start.sh"
start exp6 "$@"
