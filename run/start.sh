# shellcheck shell=bash
# Sourced by run/expN.sh and run/all.sh: `start NAME FLAGS...` checks the flags, builds, and becomes
# `lab run NAME FLAGS...`, which does the rest.

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
root=${here%/*}
# shellcheck source=run/prereq.sh
source "$here/prereq.sh"
# shellcheck source=run/flags.sh
source "$here/flags.sh"

usage() {
  cat <<TEXT
usage: run/${0##*/} [--quick] [--out DIR] [--data DIR] [--port P] [--resume] [--dry-run]

  --quick      the short form, to be had in minutes
  --out DIR    folder of the results (default results/$name; of all: results, with index.html)
  --data DIR   the cluster's folder, as for run/cluster.sh (default .cluster)
  --port P     the cluster's first port (default 19092), of P to P+2, P+100 to P+102 and P+200;
               both let two runs go side by side
  --resume     keep the arms of an earlier run of the same plan that have a ledger
  --dry-run    print the commands and the prediction, and run nothing

A cluster that is up in --data is used and left up; else one is started and taken down again.
One that a killed run left there is replaced.
exit: 0 all checks hold, 1 failed or void, 2 wrong usage, 3 a check fell short
TEXT
}

start() { # NAME FLAGS...
  name=$1
  shift
  local flag given=()
  for flag; do [[ $flag == --resume || $flag == --dry-run ]] || given+=("$flag"); done
  read_flags "$root/results/$name" ${given[@]+"${given[@]}"} # a wrong one ends it before the build
  require "${RUN_NEEDS[@]}"
  built=${CARGO_TARGET_DIR:-$root/target}
  log info building "command='cargo build --release --locked --bins'"
  # Whatever the user's settings say, the programs are where they are looked for.
  env -u CARGO_BUILD_TARGET cargo build --release --locked --bins --manifest-path "$root/Cargo.toml" \
    --target-dir "$built" >&2 || die "the build failed (cargo's words are above)"
  exec "$built/release/lab" run "$name" --source "$root" "$@"
}
