#!/usr/bin/env bash
# Experiment 15: the hidden queue: what a client that fetches ahead holds in front of a bounded queue.
# Question, prediction, checks and charts are declared in src/lab/experiments/exp15.rs. About three
# minutes after the build with --quick; 20 minutes in full.
set -euo pipefail
# shellcheck source=run/start.sh
source "$(dirname "${BASH_SOURCE[0]}")/start.sh"
start exp15 "$@"
