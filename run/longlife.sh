#!/usr/bin/env bash
# Long life: half an hour at four times the ceiling, over a bounded queue and by pull. Do memory,
# threads or file descriptors grow? Declared in src/lab/experiments/longlife.rs. An hour and five
# minutes after the build, and 24 GB of disk an arm; with --quick nine minutes.
set -euo pipefail
# shellcheck source=run/start.sh
source "$(dirname "${BASH_SOURCE[0]}")/start.sh"
start longlife "$@"
