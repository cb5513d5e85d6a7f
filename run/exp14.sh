#!/usr/bin/env bash
# Experiment 14: who notices first: rules over recorded samples, while the sink stands still.
# Question, prediction, checks and charts are declared in src/lab/experiments/exp14.rs. About four
# minutes after the build with --quick; an hour and a quarter in full.
set -euo pipefail
# shellcheck source=run/start.sh
source "$(dirname "${BASH_SOURCE[0]}")/start.sh"
start exp14 "$@"
