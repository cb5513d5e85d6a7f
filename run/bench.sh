#!/usr/bin/env bash
# The race: this project's processor and producer against a franz-go program of the same job
# (benches/peers/franz-go), on the same brokers, topic, sink and bodies, in turn.
# src/lab/bench/laps.rs declares the laps and their order. It needs Go besides what the other runs
# need.
set -euo pipefail
# shellcheck source=run/start.sh
source "$(dirname "${BASH_SOURCE[0]}")/start.sh"
unset "${!LAB_@}" # the caller's LAB_SINK or LAB_LOG is not the race's
RUN_NEEDS+=(go) switches='--quick --peers --dry-run' options='--rounds --events --kafka --client --out --data --port'
words='race producer curve'
usage() {
  cat <<'TEXT'
usage: run/bench.sh [race|producer|curve] [--quick] [--rounds N] [--events N] [--kafka VERSION]
                    [--client LIST] [--peers] [--out DIR] [--data DIR] [--port P] [--dry-run]

  race (default)  bounded, pull and unbounded, ours and franz-go in turn; --peers: also with fetches of 2 MiB
  producer        flat out, ours and franz-go in turn
  curve           ours by partitions, payload, workers, batch; one is varied at a time; --peers: franz-go too
  --quick 200000 events, 2 rounds, fewer points; --rounds N laps of each (5; of a curve 1); --events N of a
  lap (1000000); --client LIST of ours (wire,kafka); --out DIR gets MODE.jsonl, MODE.txt, commands.txt
  (results/bench); --data DIR is the cluster's folder (.cluster), --port P its first port (19092)
A cluster that is up in --data is used and left up; else one is started and taken down again.
exit: 0 done, 1 failed, or a contestant lost or did not commit something, 2 wrong usage
TEXT
}
become bench "$@"
