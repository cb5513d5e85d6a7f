# shellcheck shell=bash
# Sourced. `require java mvn cargo ...` names EVERY missing program at once, each with the line
# that installs it on Debian or Ubuntu, and exits 1; it installs nothing itself.

# What every run needs, for its build and its processes; its brokers need java and mvn too, or an engine.
# shellcheck disable=SC2034 # the scripts'
RUN_NEEDS=(cargo cc c++ make setsid setpriv flock ss)

# The line that installs program $1.
install_line() {
  local sudo='sudo '
  if ((EUID == 0)); then sudo=''; fi
  local apt="${sudo}apt-get install -y"
  case $1 in
    cargo | rustc)
      echo "curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y" ;;
    cargo-fmt) echo "rustup component add rustfmt" ;;
    cargo-clippy) echo "rustup component add clippy" ;;
    java | keytool) echo "$apt default-jre-headless   # 17 or any later release" ;;
    mvn) echo "$apt maven" ;;
    cc) echo "$apt gcc libc6-dev" ;;
    c++) echo "$apt g++" ;;
    ss | ip | tc) echo "$apt iproute2" ;;
    docker) echo "$apt docker.io docker-compose-v2" ;;
    setsid | flock | setpriv | nsenter | unshare) echo "$apt util-linux" ;;
    pgrep) echo "$apt procps" ;;
    chromium) echo "$apt chromium   # Ubuntu: snap install chromium" ;;
    go) echo "Go 1.26 or later: https://go.dev/dl" ;;
    pkg-config) echo "$apt pkg-config libssl-dev" ;;
    *) echo "$apt $1" ;;
  esac
}

# Major release of the Java on the PATH, 0 if it does not say.
java_release() {
  local text
  text=$(java -version 2>&1) || true
  if [[ $text =~ version\ \"(1\.)?([0-9]+) ]]; then echo "${BASH_REMATCH[2]}"; else echo 0; fi
}

# Minor release of the Go 1 on the PATH, 0 if it does not say.
go_release() {
  local text
  text=$(go env GOVERSION 2>/dev/null) || true
  if [[ $text =~ ^go1\.([0-9]+) ]]; then echo "${BASH_REMATCH[1]}"; else echo 0; fi
}

# Whether brokers would be containers: no Java for them, and an engine that answers.
in_containers() {
  (($(java_release) < 17)) && timeout 10 docker info >/dev/null 2>&1 && docker compose version >/dev/null 2>&1
}

# Whether program $1 works: rustup installs stand-ins that only name the missing component.
usable() {
  command -v "$1" >/dev/null || return 1
  case $1 in
    cargo | cargo-fmt | cargo-clippy) "$1" --version >/dev/null 2>&1 ;;
    go) (($(go_release) >= 26)) ;;
  esac
}

require() {
  local program missing=()
  for program in "$@"; do
    if ! usable "$program"; then
      missing+=("$(printf '  %-12s %s' "$program" "$(install_line "$program")")")
    elif [[ $program == java ]] && (($(java_release) < 17)); then # Kafka 4 runs on 17 and later
      missing+=("$(printf '  %-12s %s' 'java >= 17' "$(install_line java)")")
    fi
  done
  if ((${#missing[@]} > 0)); then
    printf '%s: %s missing; on Debian or Ubuntu:\n' "${0##*/}" "${#missing[@]}" >&2
    printf '%s\n' "${missing[@]}" >&2
    exit 1
  fi
}
