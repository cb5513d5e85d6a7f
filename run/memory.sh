# shellcheck shell=bash
# Sourced by run/lib.sh: runs a command under a memory limit that the kernel enforces.
#
#   confine NAME BYTES     sets up the limit: confined=(prefix of the command), confined_by=METHOD
#   oom_kills              how many processes the limit killed, by its own counter
#   unconfine              takes the limit away again
#
# The first that works: cgroup v2, cgroup v1, systemd-run. Else `watched`: no limit of the kernel,
# the caller kills the process that grew beyond it, and says so.

confined=() confined_by='' confined_dir='' confined_scope=''

confine() { # NAME BYTES
  local name=backpressure-lab-$1-$$ bytes=$2 root
  confined=() confined_by=watched confined_dir='' confined_scope=''
  root=$(awk '$3 == "cgroup2" { print $2; exit }' /proc/mounts)
  if [[ $root ]] && grep -qw memory "$root/cgroup.controllers" 2>/dev/null &&
    { echo +memory >"$root/cgroup.subtree_control"; } 2>/dev/null && mkdir "$root/$name" 2>/dev/null; then
    confined_dir=$root/$name
    if set_limit memory.max "$bytes"; then
      set_limit memory.swap.max 0 || true
      confined_by='cgroup v2'
    fi
  fi
  root=$(awk '$3 == "cgroup" && $4 ~ /(^|,)memory(,|$)/ { print $2; exit }' /proc/mounts)
  if [[ $confined_by == watched && $root ]] && mkdir "$root/$name" 2>/dev/null; then
    confined_dir=$root/$name
    if set_limit memory.limit_in_bytes "$bytes"; then
      set_limit memory.memsw.limit_in_bytes "$bytes" || true # only where swap is accounted
      confined_by='cgroup v1'
    fi
  fi
  if [[ $confined_by == cgroup* ]]; then
    # The shell enters the group and becomes the command: one pid throughout.
    # shellcheck disable=SC2016 # for the inner shell
    confined=(bash -c 'echo $$ >"$0/cgroup.procs" && exec "$@"' "$confined_dir")
    return
  fi
  unconfine
  local as=(systemd-run --quiet --scope -p MemoryMax="$bytes" -p MemorySwapMax=0)
  ((EUID == 0)) || as+=(--user)
  if command -v systemd-run >/dev/null && "${as[@]}" true 2>/dev/null; then
    confined_scope=$name.scope confined_by=systemd-run
    confined=("${as[@]}" --unit "$name")
  fi
}

set_limit() { { echo "$2" >"$confined_dir/$1"; } 2>/dev/null; } # FILE VALUE

oom_kills() {
  case $confined_by in
    'cgroup v2') awk '$1 == "oom_kill" { print $2 }' "$confined_dir/memory.events" ;;
    'cgroup v1') awk '$1 == "oom_kill" { print $2 }' "$confined_dir/memory.oom_control" ;;
    systemd-run)
      # The scope is gone with its process; what is left is why, until unconfine.
      if units show -P Result "$confined_scope" | grep -q oom-kill; then echo 1; else echo 0; fi ;;
    *) echo 0 ;; # the caller's own kill is no kernel's: confined_by says so
  esac
}

units() { if ((EUID == 0)); then systemctl "$@"; else systemctl --user "$@"; fi; }

unconfine() {
  local tries
  # One whose process was killed stays in the list of failed units.
  [[ ! $confined_scope ]] || units reset-failed "$confined_scope" 2>/dev/null || true
  [[ ! $confined_dir ]] || for ((tries = 0; tries < 20; tries++)); do
    rmdir "$confined_dir" 2>/dev/null && break # busy until the last process is reaped
    sleep 0.1
  done
  # shellcheck disable=SC2034 # the caller's prefix
  confined=()
  confined_dir='' confined_scope=''
}
