#!/usr/bin/env bash
# Three real Kafka brokers on this machine: see `run/cluster.sh --help`. This runs `lab cluster`,
# and builds the program if it does not exist yet.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
root=${here%/*}
# shellcheck source=run/prereq.sh
source "$here/prereq.sh"
# shellcheck source=run/speak.sh
source "$here/speak.sh"

lab=${CARGO_TARGET_DIR:-$root/target}/release/lab
if [[ ! -x $lab ]]; then
  require cargo cc c++ make
  build_lab
fi
exec "$lab" cluster --source "$root" "$@"
