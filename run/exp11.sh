#!/usr/bin/env bash
# Experiment 11: autoscaling on lag: a rule that keeps a member only if it helped, beside one that follows the lag;
# and what a rebalance costs: eager, cooperative, static members, KIP-848. Question, prediction, checks and charts are
# declared in src/lab/experiments/exp11.rs. About nine minutes after the build with --quick; an hour in full.
set -euo pipefail
# shellcheck source=run/start.sh
source "$(dirname "${BASH_SOURCE[0]}")/start.sh"
start exp11 "$@"
