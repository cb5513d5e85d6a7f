#!/usr/bin/env bash
# The benchmark behind the experiments: latency at 80 % of the sink's ceiling, goodput and the
# producer's schedule at four times it, batches off. Declared in src/lab/experiments/ceiling.rs.
# About six minutes after the build with --quick; the full form takes four minutes more.
set -euo pipefail
# shellcheck source=run/start.sh
source "$(dirname "${BASH_SOURCE[0]}")/start.sh"
start ceiling "$@"
