# shellcheck shell=bash disable=SC2154 # here: the caller's
# Sourced: steps the wall clock that one program sees, and nobody else, while it runs.
#
#   own_clock DIR         at_own_clock=(prefix of the command); DIR is for what it needs
#   step_clock SECONDS    off the true time from now on: -3600 is an hour back, 0 right again
#
# The monotonic clock stays true, as it does when an administrator sets the time. Dynamically
# linked programs only; how it is done is in clock.c.

at_own_clock=() own_clock=''

own_clock() { # DIR
  require cc
  own_clock=$(realpath -- "$1")/clock
  step_clock 0
  cc -shared -fPIC -O2 -Wall -Wextra -o "$own_clock.so" "$here/clock.c" || die "run/clock.c does not compile (see above)"
  # shellcheck disable=SC2034 # the caller's prefix
  at_own_clock=(env "LD_PRELOAD=$own_clock.so" "STEPPED_CLOCK=$own_clock")
}

# The file is written over, never made anew or emptied: it is mapped into the program.
step_clock() { # SECONDS
  printf '%020d\n' "$1" 1<>"$own_clock"
  log info clock_stepped "seconds=$1"
}
