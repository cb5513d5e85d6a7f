#!/usr/bin/env bash
# Experiment 13: the wrong knob: what a client does about a rate limit that refuses (429): a rate, a number of calls,
# or nothing for whole seconds. Question, prediction, checks and charts are declared in
# src/lab/experiments/exp13.rs. About five minutes after the build with --quick; 25 minutes in full.
set -euo pipefail
# shellcheck source=run/start.sh
source "$(dirname "${BASH_SOURCE[0]}")/start.sh"
start exp13 "$@"
