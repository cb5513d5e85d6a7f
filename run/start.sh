# shellcheck shell=bash
# Sourced by run/expN.sh, run/all.sh, run/faults.sh, run/bench.sh. `start NAME FLAGS...` becomes `lab run NAME
# FLAGS...`, and `become COMMAND FLAGS...` becomes `lab COMMAND FLAGS...`: first it checks the flags and builds.
# The script may set
#
#   through=(COMMAND...)      what that is run through
#   more_usage, words         further lines of the usage; which words may stand beside flags (* for any)
#   switches, options         the flags without and with a value

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
root=${here%/*}
# shellcheck source=run/prereq.sh
source "$here/prereq.sh"
name='' through=() more_usage='' words=''
switches='--quick --resume --dry-run' options='--out --data --port --repeat --arm --case'

log() { printf 'ts=%(%Y-%m-%dT%H:%M:%SZ)T level=%s event=%s\n' -1 "$1" "${*:2}" >&2; }
die() { printf '%s: %s\n' "${0##*/}" "$*" >&2; exit 1; }
misuse() { printf '%s: %s (see run/%s --help)\n' "${0##*/}" "$*" "${0##*/}" >&2; exit 2; }

usage() {
  cat <<TEXT
usage: run/${0##*/} [--quick] [--out DIR] [--data DIR] [--port P] [--repeat K]
       [--arm A]... [--resume] [--dry-run] ${words:+[FAULT...]}

  --quick      the short form, to be had in minutes
  --out DIR    folder of the results (default results/$name; of all: results, with index.html)
  --data DIR   the cluster's folder, as for run/cluster.sh (default .cluster; of faults: .cluster-faults)
  --port P     the cluster's first port (default 19092), of P to P+2, P+100 to P+102 and P+200;
               both let two runs go side by side
  --repeat K   run it so many times: the verdict takes the worst, and the spread is shown
  --arm A      run this arm alone, and keep the others of an earlier run of the same plan
  --resume     keep the arms of an earlier run of the same plan that ended as they should
  --dry-run    print the commands and the prediction, and run nothing
$more_usage
A cluster that is up in --data is used and left up; else one is started and taken down again.
One that a killed run left there is replaced.
exit: 0 all checks hold, 1 failed or void, 2 wrong usage, 3 a check fell short
TEXT
}

# A wrong one ends it before the build.
check_flags() { # FLAGS...
  while (($# > 0)); do
    case $1 in
      -h | --help) usage; exit 0 ;;
      --*=*) set -- "${1%%=*}" "${1#*=}" "${@:2}" ;;
    esac
    if [[ " $options " == *" $1 "* ]]; then
      [[ $# -gt 1 && $2 ]] || misuse "$1 needs a value"
      shift
    else
      [[ " $switches $words " == *" $1 "* || ($words == '*' && $1 != -*) ]] || misuse "unknown argument '$1'"
    fi
    shift
  done
}

end_build() { # PID EXIT-CODE
  kill -TERM -- "-$1" 2>/dev/null
  exit "$2"
}

# In a group of its own, so that a signal to the script ends it at once, and with it the compilers that it
# started. Whatever the user's settings say, the programs are where they are looked for.
build_programs() {
  log info building "command='cargo build --release --locked --bins'"
  exec setsid env -u CARGO_BUILD_TARGET cargo build --release --locked --bins \
    --manifest-path "$root/Cargo.toml" --target-dir "$built" </dev/null >&2
}

become() { # COMMAND FLAGS...
  local command=$1
  shift
  check_flags "$@"
  require "${RUN_NEEDS[@]}"
  built=${CARGO_TARGET_DIR:-$root/target}
  build_programs &
  trap 'end_build $! 130' INT
  trap 'end_build $! 143' TERM
  trap 'end_build $! 129' HUP
  wait $! || die "the build failed (cargo's words are above)"
  trap - INT TERM HUP
  exec ${through[@]+"${through[@]}"} "$built/release/lab" "$command" ${name:+"$name"} --source "$root" "$@"
}

start() { # NAME FLAGS...
  name=$1
  shift
  become run "$@"
}
