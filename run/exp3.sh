#!/usr/bin/env bash
# Experiment 3: batch sizes 1, 50, 200 and 1,000 against a sink whose calls cost 0.9 tokens and
# whose events cost 0.1. Question, prediction, checks and charts are declared in
# src/lab/experiments/exp3.rs. About three and a half minutes after the build with --quick, and one
# and a half on brokers that just started; 16 minutes in full.
set -euo pipefail
# shellcheck source=run/start.sh
source "$(dirname "${BASH_SOURCE[0]}")/start.sh"
start exp3 "$@"
