# shellcheck shell=bash
# Sourced by run/start.sh and run/cluster.sh: the scripts' messages, and their build.
#
#   log LEVEL EVENT KEY=VALUE..., die WHY, misuse WHY
#   build_programs TARGET-DIR    becomes the build: to be run in the background
#   build_lab                    builds; sets lab, the program
#
# The script must set `root` before.

log() { printf 'ts=%(%Y-%m-%dT%H:%M:%SZ)T level=%s event=%s\n' -1 "$1" "${*:2}" >&2; }
die() { printf '%s: %s\n' "${0##*/}" "$*" >&2; exit 1; }
misuse() { printf '%s: %s (see run/%s --help)\n' "${0##*/}" "$*" "${0##*/}" >&2; exit 2; }

# The output of --version: the commit, with a mark where files were changed since.
# shellcheck disable=SC2154 # root
revision() { git -C "$root" describe --always --dirty --abbrev=10 2>/dev/null || true; }

# In a process group of its own, so that a signal to the script ends it at once, with its compilers.
# The user's settings do not change where the programs are built.
# shellcheck disable=SC2154 # root
build_programs() { # TARGET-DIR
  log info building "command='cargo build --release --locked --bins'"
  exec setsid env -u CARGO_BUILD_TARGET "LAB_REVISION=$(revision)" cargo build --release --locked --bins \
    --manifest-path "$root/Cargo.toml" --target-dir "$1" </dev/null >&2
}

build_lab() {
  local built=${CARGO_TARGET_DIR:-$root/target}
  build_programs "$built" &
  trap 'end_build $! 130' INT
  trap 'end_build $! 143' TERM
  trap 'end_build $! 129' HUP
  wait $! || die "the build failed (cargo's words are above)"
  trap - INT TERM HUP
  # shellcheck disable=SC2034 # the script's
  lab=$built/release/lab
}

end_build() { # PID EXIT-CODE
  kill -TERM -- "-$1" 2>/dev/null
  exit "$2"
}
