# shellcheck shell=bash
# Sourced by run/test.sh and run/fuzz.sh, which run each command in a process group of its own.

# Ends process groups with all their members: by SIGTERM, after 3 seconds by SIGKILL.
end_groups() { # PGID...
  local group tries
  for group; do kill -TERM -- "-$group" 2>/dev/null || true; done
  for group; do
    for ((tries = 0; tries < 60; tries++)); do
      kill -0 -- "-$group" 2>/dev/null || continue 2
      sleep 0.05
    done
    kill -KILL -- "-$group" 2>/dev/null || true
  done
}
