#!/usr/bin/env bash
# Experiment 1: an unbounded queue against a bounded one. The unbounded arm runs under a memory
# limit until the kernel kills it; the bounded one, and a bounded one with a throttled source, run
# to the end. Question, prediction, checks and charts are declared in src/lab/experiments/exp1.rs.
# About four minutes after the build with --quick; 65 minutes and 23 GB of disk in full.
set -euo pipefail
# shellcheck source=run/start.sh
source "$(dirname "${BASH_SOURCE[0]}")/start.sh"
start exp1 "$@"
