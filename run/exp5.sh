#!/usr/bin/env bash
# Experiment 5: a steady load, and a sink that stalls for a while. Question, prediction, checks and
# charts are declared in src/lab/experiments/exp5.rs. About three and a half minutes after the build
# with --quick; 35 minutes in full.
set -euo pipefail
# shellcheck source=run/start.sh
source "$(dirname "${BASH_SOURCE[0]}")/start.sh"
start exp5 "$@"
