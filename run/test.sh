#!/usr/bin/env bash
# Every check of the project, from an empty target/ on: format, lints, docs, scripts, then the
# tests. Tests that need Kafka run on a real three-broker cluster of their own; tests that break
# brokers run last and alone. All steps run even when one fails, so that one run shows all failures.
# It leaves no process, no cluster and no file behind, unless it is killed with 9.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
# shellcheck source=run/prereq.sh
source "$here/prereq.sh"
# shellcheck source=run/groups.sh
source "$here/groups.sh"
cd "${here%/*}"

# A step that takes longer hangs: five times the time of the longest step on two cores.
readonly BUILD_WITHIN_S=1800 TESTS_WITHIN_S=600
# The last release line that accepts the requests of crate `kafka`.
readonly OLD_KAFKA=3.9.2
# One profile for all: the dependencies are compiled once to build and once to check. With every
# feature, because the default build is the same without some files.
readonly CARGO=(--release --locked --all-features)

log() { printf 'ts=%(%Y-%m-%dT%H:%M:%SZ)T level=%s event=%s\n' -1 "$1" "${*:2}"; }

usage() {
  cat <<'TEXT'
usage: run/test.sh

Format, clippy, docs, shellcheck, unit tests, doc tests, integration tests; those on Kafka run on
three brokers that it starts on free ports and takes down again, of the newest Kafka and then of 3.9.
About half an hour on two cores when nothing is built yet, about eighteen minutes afterwards.
exit: 0 all passed, 1 something failed, 2 wrong usage
TEXT
}

case ${1-} in
  '') ;;
  -h | --help) usage; exit 0 ;;
  *) printf "test.sh: unknown argument '%s' (see run/test.sh --help)\n" "$1" >&2; exit 2 ;;
esac

require cargo cargo-fmt cargo-clippy cc c++ make java mvn setsid ss pgrep git keytool shellcheck chromium pkg-config ip nsenter unshare
unset "${!LAB_@}" # the caller's LAB_SINK or LAB_TOKEN is not what the tests expect
tmp=$(mktemp -d "${TMPDIR:-/var/tmp}/backpressure-lab-test.XXXXXX")
running='' failed=()

# --- steps -----------------------------------------------------------------------------------
# step SECONDS NAME COMMAND...: runs it in a process group of its own (timeout makes it), so that an
# interrupt reaches this script alone and processes that a test leaves can be seen.
step() {
  local limit=$1 name=$2 begun=$EPOCHSECONDS code=0 tee
  shift 2
  log info step_begins "step='$name' command='$*'"
  exec {out}> >(tee -a "$tmp/log")
  tee=$!
  timeout --kill-after=10 "$limit" "$@" </dev/null >&"$out" 2>&1 &
  running=$!
  wait "$running" || code=$?
  if kill -0 -- "-$running" 2>/dev/null; then
    log error processes_left "step='$name' pids='$(pgrep -d ' ' -g "$running")'"
    end_groups "$running"
    ((code > 0)) || code=1
  fi
  running=''
  exec {out}>&-
  wait "$tee" || true
  ((code == 0)) || failed+=("$name")
  ((code != 124)) || log error step_hangs "step='$name' within_s=$limit"
  log info step_ended "step='$name' exit=$code seconds=$((EPOCHSECONDS - begun))"
  return "$code"
}

check() { step "$BUILD_WITHIN_S" "$@" || true; }
tests() { step "$TESTS_WITHIN_S" "$1" cargo test "${CARGO[@]}" --no-fail-fast "${@:2}" || true; }

# The data planes on this Kafka. A quota is for all consumers, so it comes by itself.
planes() { # NAME
  tests "data planes, $1" --test planes -- --test-threads=2 --skip a_throttled_fetch
  tests "a quota, $1" --test planes -- a_throttled_fetch
}

# Checks the dependencies against deny.toml, if cargo-deny is installed: it takes longer to build
# than the lab. Its list of known vulnerabilities is a git repository of its own.
supply_chain() {
  if ! command -v cargo-deny >/dev/null; then
    log warn supply_chain_not_checked "why='no cargo-deny' get='cargo install --locked cargo-deny'"
    return
  fi
  check 'supply chain' cargo deny --log-level error check licenses bans sources
  if timeout 60 cargo deny --log-level off fetch db >/dev/null 2>&1; then
    check advisories cargo deny --log-level error check advisories
  else
    log warn advisories_not_checked "why='their database cannot be had from here'"
  fi
}

# The program that run/bench.sh races against, and the one that makes Grafana's board, if Go is
# installed.
in_go() {
  if ! usable go; then
    log warn go_not_checked "why='no Go 1.26' get='$(install_line go)'"
    return
  fi
  check 'the peer of the race' bash -c 'cd benches/peers/franz-go && go vet ./... && go test ./...'
  if timeout 120 go mod download -C docker/grafana/board >/dev/null 2>&1; then
    check 'the board is made by its program' bash -c 'go run -C docker/grafana/board . | diff - docker/grafana/board.json'
  else
    log warn board_not_checked "why='its modules cannot be had from here'"
  fi
}

clean_up() {
  local code=$?
  trap '' INT TERM HUP PIPE # a second Ctrl-C must not leave half of it
  set +e
  [[ ! $running ]] || end_groups "$running"
  [[ ! -e $tmp/cluster ]] || cluster down || code=1
  ((code < 128)) || log warn interrupted "exit=$code"
  rm -rf -- "${tmp:?}"
  exit "$code"
}

# --- the cluster -----------------------------------------------------------------------------
cluster() { "$here/cluster.sh" "$@" --data "$tmp/cluster"; }

# A first port whose nine (brokers at +0..2, secured at +10..12, controllers at +100..102) are free, below the range
# from which the system takes the ports of outgoing connections.
free_port() {
  local port used n
  while :; do
    port=$((20000 + RANDOM % 12000)) used=$(ss -Hltn)
    for n in 0 1 2 10 11 12 100 101 102; do
      [[ $used != *:$((port + n))\ * ]] || continue 2
    done
    echo "$port"
    return
  done
}

# JVMs even where Docker answers: the tests stop and continue brokers by signal.
start_cluster() { # OPTIONS of `up`...
  local port
  port=$(free_port)
  secured=$(cluster up --mode jvm --topic '' --port "$port" "$@")
  export LAB_BROKERS=127.0.0.1:$port,127.0.0.1:$((port + 1)),127.0.0.1:$((port + 2))
  export LAB_CLUSTER_DATA=$tmp/cluster
}

# --- everything ------------------------------------------------------------------------------
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
trap 'exit 129' HUP

mapfile -t scripts < <(git ls-files --cached --others --exclude-standard '*.sh' .ci)
check format cargo fmt --check
check scripts shellcheck --external-sources "${scripts[@]}"
# shellcheck disable=SC2016 # bash -c expands it
check 'sabotage applies' bash -c 'for patch; do git apply --check "$patch" || exit; done' - tests/sabotage/*.patch
supply_chain
in_go
# Prometheus' settings, by its own tools; and the board's queries, on a real one that scrapes a pipeline.
prometheus=''
if command -v prometheus >/dev/null && command -v promtool >/dev/null; then
  prometheus=yes
  check 'scraping and rules' bash -c 'promtool check config docker/prometheus/prometheus.yml && promtool test rules docker/prometheus/rules.test.yml'
else
  log warn prometheus_not_checked "why='no prometheus' get='apt-get install prometheus'"
fi
check clippy cargo clippy "${CARGO[@]}" --all-targets -- -D warnings
check 'clippy, without tls' cargo clippy --release --locked --features librdkafka-ssl -- -D warnings
RUSTDOCFLAGS='-D warnings -A rustdoc::private_intra_doc_links' check docs cargo doc "${CARGO[@]}" --no-deps --document-private-items
step "$BUILD_WITHIN_S" build cargo test "${CARGO[@]}" --no-run || exit 1

# In tests/, kafka/ needs brokers and leaves them alone, faults/ breaks them; planes, secured and
# cluster need brokers of their own kind, board a Prometheus as well, stack a Docker engine with the
# images. Any other test file needs no brokers.
no_brokers=()
for file in tests/*.rs; do
  name=$(basename "$file" .rs)
  [[ $name == @(planes|secured|cluster|board|stack) ]] || no_brokers+=(--test "$name")
done

tests 'unit tests' --lib --bins
tests 'doc tests' --doc
tests 'tests without brokers' "${no_brokers[@]}"
# Hosts of their own are network namespaces, which only root makes.
apart=()
if ((EUID != 0)); then
  apart=(-- --skip hosts_of_their_own)
  log warn hosts_not_checked "why='not root'"
fi
tests 'clusters of its own' --test cluster "${apart[@]}"
if timeout 10 docker info >/dev/null 2>&1 && docker compose version >/dev/null 2>&1 && docker image inspect backpressure-lab >/dev/null 2>&1; then
  check 'the image of the lab' docker build --quiet --file docker/Dockerfile --tag backpressure-lab .
  tests 'the stack, in containers' --test stack -- --test-threads=1
else
  log warn stack_not_checked "why='no engine, or no image of the lab' get='docker compose -f docker/compose.yaml build'"
fi
start_cluster --secure
tests 'tests with brokers' --test kafka
LAB_BROKERS=$secured LAB_COMMAND_CONFIG=$tmp/cluster/secure/client.properties \
  tests 'TLS and SASL' --test secured
if [[ $prometheus ]]; then tests 'board' --test board; fi
planes 'newest Kafka'
cluster up >/dev/null # brings back a broker that a failed test left down
tests 'broken brokers' --test faults -- --test-threads=1
cluster down
start_cluster --version "$OLD_KAFKA"
planes "Kafka $OLD_KAFKA"

# --- the sum ---------------------------------------------------------------------------------
{ grep -E '^test .*(\.\.\. FAILED|has been running)' "$tmp/log" || true; } | sort -u
if ((${#failed[@]} > 0)); then
  printf -v list "'%s' " "${failed[@]}"
  log error tests_failed "steps=\"${list% }\" seconds=$SECONDS"
else
  log info tests_passed "seconds=$SECONDS"
fi
awk '/^test result:/ { passed += $4; failed += $6; ignored += $8 }
  END { printf "%d passed, %d failed, %d ignored\n", passed, failed, ignored }' "$tmp/log"
((${#failed[@]} == 0))
