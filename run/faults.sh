#!/usr/bin/env bash
# The fault matrix: a pipeline under load, one thing broken at a time, and the ledger after it.
# src/lab/experiments/faults/matrix.rs declares each fault and its expected result. Twenty minutes
# after the build with --quick: each fault once, queues and loads in turn; in full, an hour and
# three quarters, each fault under all of them. It runs in network and mount namespaces of its own,
# so it needs root, or a kernel that lets users have namespaces. Its faults on links, disks and
# clocks are not seen outside of them.
# shellcheck disable=SC2034 # start.sh reads what is set
set -euo pipefail
# shellcheck source=run/start.sh
source "$(dirname "${BASH_SOURCE[0]}")/start.sh"

name=faults words='*'
more_usage='  --case C     each fault under this queue and load only, such as bounded:8000, bounded:bursty, bounded:idle
  FAULT...     these faults only, such as sink-killed (all: --dry-run)
'
check_flags "$@"
for flag; do [[ $flag != --dry-run ]] || start faults "$@"; done # which needs nothing of this
require java mvn unshare nsenter ip tc mount cc
through=(unshare --net --mount)
((EUID == 0)) || through+=(--user --map-root-user)
"${through[@]}" true ||
  die "no namespaces of its own (its words are above): run it as root, as by 'sudo env PATH=\$PATH HOME=\$HOME run/faults.sh'; target/ and results/ are root's then"
# Inside there is no network but its own.
"$here/cluster.sh" fetch --mode jvm
# The token for every server that does not listen on loopback.
LAB_TOKEN=$(head -c 24 /dev/urandom | base64 | tr '+/' 'ab')
export LAB_TOKEN
start faults "$@"
