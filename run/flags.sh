# shellcheck shell=bash
# Sourced by run/start.sh, run/bench.sh and run/lib.sh: the flags that every run takes, and how scripts speak.
#
#   read_flags OUT ARGS...   sets form=quick|full, out (OUT unless told), data, port=(--port P)
#
# The script has said what `root` is, and has a function `usage`; `cluster_folder`, where it sets it,
# is the cluster's default folder instead of .cluster.

log() { printf 'ts=%(%Y-%m-%dT%H:%M:%SZ)T level=%s event=%s\n' -1 "$1" "${*:2}" >&2; }
die() { printf '%s: %s\n' "${0##*/}" "$*" >&2; exit 1; }
misuse() { printf '%s: %s (see run/%s --help)\n' "${0##*/}" "$*" "${0##*/}" >&2; exit 2; }

# shellcheck disable=SC2034,SC2154 # set for, and by, the script
read_flags() { # OUT ARGS...
  form=full out=$1 data=$root/${cluster_folder-.cluster} port=()
  shift
  while (($# > 0)); do
    case $1 in
      -h | --help) usage; exit 0 ;;
      --*=*) set -- "${1%%=*}" "${1#*=}" "${@:2}" ;;
      --quick) form=quick; shift ;;
      --out | --data | --port)
        [[ $# -gt 1 && $2 ]] || misuse "$1 needs a value"
        case $1 in
          --out) out=$(realpath -m -- "$2") ;;
          --data) data=$(realpath -m -- "$2") ;;
          --port) port=(--port "$2") ;;
        esac
        shift 2 ;;
      *) misuse "unknown argument '$1'" ;;
    esac
  done
}

# Disk that a run's cluster must find: in full an arm of 8,000/s x 0.56 kB x 3 replicas x 30 min
# is 24 GB.
disk_needed() { if [[ $form == quick ]]; then echo 4GiB; else echo 30GiB; fi; }
