#!/usr/bin/env bash
# Experiment 12 with clients that send again what is not answered: does the pipeline come back after a short
# overload? Question, prediction, checks and charts are declared in src/lab/experiments/exp12_retries.rs. About five
# minutes after the build with --quick; 28 minutes in full.
set -euo pipefail
# shellcheck source=run/start.sh
source "$(dirname "${BASH_SOURCE[0]}")/start.sh"
start exp12-retries "$@"
