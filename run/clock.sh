# shellcheck shell=bash disable=SC2154 # here, bin: the caller's
# Sourced: steps the wall clock that one program sees, and nobody else, while it runs.
#
#   own_clock DIR         at_own_clock=(prefix of the command); DIR is for its file
#   step_clock SECONDS    off the true time from now on: -3600 is an hour back, 0 right again
#
# The monotonic clock stays true, as it does when an administrator sets the time. Dynamically
# linked programs only; how it is done is in clock.c.

at_own_clock=() own_clock=''

own_clock() { # DIR
  # With the programs, and not in DIR: the loader takes a blank or a colon for the end of a path.
  local library=$bin/clock.so
  require cc
  [[ $library != *[\ :]* ]] || die "the loader cannot use $library: choose a CARGO_TARGET_DIR without blanks and colons"
  own_clock=$(realpath -- "$1")/clock
  step_clock 0
  cc -shared -fPIC -O2 -Wall -Wextra -o "$library" "$here/clock.c" || die "run/clock.c does not compile (see above)"
  # shellcheck disable=SC2034 # the caller's prefix
  at_own_clock=(env "LD_PRELOAD=$library" "STEPPED_CLOCK=$own_clock")
}

# The file is written over, never made anew or emptied: it is mapped into the program.
step_clock() { # SECONDS
  printf '%020d\n' "$1" 1<>"$own_clock"
  log info clock_stepped "seconds=$1"
}
