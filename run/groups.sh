# shellcheck shell=bash
# Sourced by run/test.sh and run/fuzz.sh, which run what they start in process groups of its own.

# Ends groups, whoever is in them: by SIGTERM, after 3 seconds by SIGKILL.
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
