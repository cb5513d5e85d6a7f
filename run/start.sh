# shellcheck shell=bash
# Sourced by run/expN.sh, run/all.sh, run/faults.sh, run/bench.sh. `start NAME FLAGS...` becomes `lab run NAME
# FLAGS...`, and `become COMMAND FLAGS...` becomes `lab COMMAND FLAGS...`: first it checks the flags and builds.
# The script may set
#
#   through=(COMMAND...)      the prefix of that command
#   more_usage, words         further lines of the usage; which words may stand beside flags (* for any)
#   switches, options         the flags without and with a value

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
root=${here%/*}
# shellcheck source=run/prereq.sh
source "$here/prereq.sh"
# shellcheck source=run/speak.sh
source "$here/speak.sh"
name='' through=() more_usage='' words=''
switches='--quick --resume --dry-run' options='--out --data --port --repeat --arm --case'


usage() {
  cat <<TEXT
usage: run/${0##*/} [--quick] [--out DIR] [--data DIR] [--port P] [--repeat K]
       [--arm A]... [--resume] [--dry-run] ${words:+[FAULT...]}

  --quick      the short form, which takes minutes
  --out DIR    folder of the results (default results/$name with --quick, else results/full/$name;
               of all: results or results/full, with index.html)
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

# A wrong flag ends the script before the build.
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

become() { # COMMAND FLAGS...
  local command=$1
  shift
  check_flags "$@"
  in_containers || RUN_NEEDS+=(java mvn)
  require "${RUN_NEEDS[@]}"
  build_lab
  exec ${through[@]+"${through[@]}"} "$lab" "$command" ${name:+"$name"} --source "$root" "$@"
}

start() { # NAME FLAGS...
  name=$1
  shift
  become run "$@"
}
