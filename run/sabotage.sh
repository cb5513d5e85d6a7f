#!/usr/bin/env bash
# Breaks the code on purpose and checks that the fault matrix detects it. Each patch of
# tests/sabotage removes the code behind one promise (the retry, the acked prefix, the revocation
# ...), and names the faults to run and the check that must turn red; or the unit tests to run (test:)
# and the one of them. If a patch is not detected, the check proves nothing. About five minutes for the
# first build, then two or three a patch. As root, as run/faults.sh; patches of unit tests need no root.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
root=${here%/*}

usage() {
  cat <<'TEXT'
usage: run/sabotage.sh [NAME...]

  NAME...      of tests/sabotage/NAME.patch (default: all)

exit: 0 every patch was found out, 1 failed or one was not, 2 wrong usage
TEXT
}

log() { printf 'ts=%(%Y-%m-%dT%H:%M:%SZ)T level=%s event=%s\n' -1 "$1" "${*:2}" >&2; }
header() { sed -n "s/^$2: *//p" "$1" | head -n 1; } # PATCH KEY

patches=()
for name; do
  case $name in
    -h | --help) usage; exit 0 ;;
  esac
  [[ -f $root/tests/sabotage/$name.patch ]] || {
    printf "sabotage.sh: no tests/sabotage/%s.patch (see run/sabotage.sh --help)\n" "$name" >&2
    exit 2
  }
  patches+=("$root/tests/sabotage/$name.patch")
done
((${#patches[@]} > 0)) || patches=("$root"/tests/sabotage/*.patch)

work=$(mktemp -d "${TMPDIR:-/var/tmp}/backpressure-lab-sabotage.XXXXXX")
running=''
clean_up() {
  local code=$?
  trap '' INT TERM HUP PIPE
  if [[ $running ]]; then kill -TERM "$running" 2>/dev/null; wait "$running" || true; fi
  rm -rf -- "${work:?}"
  exit "$code"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
trap 'exit 129' HUP

# A build of its own: a broken binary must never be where a sound one is expected.
export CARGO_TARGET_DIR=$root/target/sabotage CARGO_INCREMENTAL=1
table=() missed=0
for patch in "${patches[@]}"; do
  # Always the same folder, so that only what the patch touches is compiled anew.
  name=$(basename "$patch" .patch) tree=$work/tree
  rm -rf -- "$tree"
  mkdir "$tree"
  (cd "$root" && git ls-files -z --cached --others --exclude-standard | xargs -0 cp --parents -t "$tree")
  (cd "$tree" && GIT_CEILING_DIRECTORIES=$work git apply "$patch")
  red=$(header "$patch" red)
  tests=$(header "$patch" test)
  if [[ $tests ]]; then
    code=0
    (cd "$tree" && exec setpriv --pdeathsig TERM timeout 1800 \
      cargo test --release --locked --lib -- "$tests" >"$work/$name.out" 2>&1) &
    running=$!
    wait "$running" || code=$?
    running=''
    if ((code > 128)); then exit "$code"; fi
    if grep -q "^test .*::$red \.\.\. FAILED$" "$work/$name.out"; then
      seen="wanted ok, it FAILED: $(sed -n "/::$red' .*panicked/{n;p;q}" "$work/$name.out" | cut -c1-80)"
      log info found_out "patch=$name by=$red"
    else
      seen="NOT FOUND OUT (exit $code)" missed=$((missed + 1))
      grep -q "^test .*::$red \.\.\. ok$" "$work/$name.out" || seen="DID NOT RUN (exit $code)"
      log error not_found_out "patch=$name exit=$code wanted=$red"
    fi
    table+=("| $name | $(header "$patch" what) | \`$red\` | $seen |")
    continue
  fi
  read -r fault case <<<"$(header "$patch" run)"
  code=0
  setpriv --pdeathsig TERM "$tree/run/faults.sh" --quick --case "$case" --out "$work/$name.out" --data "$work/cluster" "$fault" &
  running=$!
  wait "$running" || code=$?
  running=''
  if ((code > 128)); then exit "$code"; fi
  if [[ $code == 3 ]] && grep -q "^| \*\*FAIL\*\* | \`$red\`" "$work/$name.out/report.md"; then
    seen=$(sed -n "s/^| \*\*FAIL\*\* | \`$red\` |.*| \(.*\) | .* | \(.*\) |$/wanted \1, measured \2/p" "$work/$name.out/report.md")
    log info found_out "patch=$name by=$red"
  else
    seen="NOT FOUND OUT (exit $code)" missed=$((missed + 1))
    [[ $code == [03] ]] || seen="DID NOT RUN (exit $code)"
    log error not_found_out "patch=$name exit=$code wanted=$red"
  fi
  table+=("| $name | $(header "$patch" what) | \`$red\` | $seen |")
done
printf '%s\n' '| patch | what is taken away | must turn red | seen |' '|---|---|---|---|' "${table[@]}"
((missed == 0))
