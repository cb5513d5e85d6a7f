#!/usr/bin/env bash
# Every experiment, one after the other on one cluster, and one page that joins them: the targets,
# the verdicts, the charts. With --quick an hour after the build; hours in full.
set -euo pipefail
# shellcheck source=run/start.sh
source "$(dirname "${BASH_SOURCE[0]}")/start.sh"
start all "$@"
