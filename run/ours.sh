# shellcheck shell=bash disable=SC2034,SC2154 # here, root, data, out, port: the script's; the rest is for it
# Sourced by run/bench.sh after run/speak.sh: what a run takes for itself, and gives back.
#
#   lock_cluster, unlock_cluster     no other run uses the cluster in $data meanwhile
#   claim_folder                     no other run writes into $out meanwhile, and what an earlier run left
#                                    there is removed
#   build                            sets bin
#   have_cluster                     sets brokers, and cluster_is_ours where it brought the cluster up,
#                                    with the flags cluster_flags where the script has some
#   signal SIGNAL PID
#   tied=(prefix of a command)       that the kernel tells to end when the script that started it is
#                                    killed, and cannot tell it so itself
#
# The locks are the descriptors 9 and 7, those of `lab run` too. What a run starts does not keep them, so
# that nothing which outlives a killed run locks out the next.

readonly RESULTS=backpressure-lab.results # its presence makes a folder ours to empty

declare -A pids=() # of what runs now, by name
cluster_is_ours='' lock_is_ours='' left_behind=''
tied=(setpriv --pdeathsig TERM)

# It, and what it has started where it leads a group of its own (setsid's doing).
signal() { kill "-$1" -- "-$2" 2>/dev/null || kill "-$1" "$2" 2>/dev/null; } # SIGNAL PID

cluster() { "$here/cluster.sh" "$@" --data "$data" 7>&- 9>&-; }

# --- the cluster's lock --------------------------------------------------------------------------
# One run a cluster at a time: two would measure each other. The file says which cluster its run
# brought up; where a run was killed, file and cluster are still there.
lock_cluster() {
  mkdir -p "$(dirname "$data")"
  exec 9<>"$data.lock" || die "$data.lock cannot be written: choose another --data"
  # Of a run that is just ending the file is deleted: a lock on that keeps nobody out.
  { flock -n 9 && [[ /dev/fd/9 -ef $data.lock ]]; } ||
    die "another run uses the cluster in $data: wait for it, or choose --data and --port"
  lock_is_ours=yes left_behind=$(<"$data.lock")
}

# Where a run ends before it has looked at what a killed one left, that stays known.
unlock_cluster() {
  if [[ $lock_is_ours && (! $left_behind || $cluster_is_ours) ]]; then rm -f -- "$data.lock"; fi
}

# --- the results ---------------------------------------------------------------------------------
# Only a folder that is empty or ours is written into, and what an earlier run left, however it
# ended, is removed, so that no old figure can be taken for a new one.
claim_folder() {
  mkdir -p "$out" || die "--out $out cannot be made"
  [[ -w $out ]] || die "--out $out cannot be written"
  exec 7<"$out" || die "--out $out cannot be read"
  flock -n 7 || die "another run writes into $out: wait for it, or choose --out"
  if [[ ! -e $out/$RESULTS && ! -e $out/plan.json && -n $(ls -A "$out") ]]; then
    die "--out $out holds something else than a run of this experiment: choose another folder"
  fi
  : >"$out/$RESULTS" # it stays: a run that ends before its plan is written leaves a folder of ours too
  find "$out" -mindepth 2 -maxdepth 2 '(' -name samples.jsonl -o -name commands.txt ')' -printf '%h\0' |
    xargs -0r rm -rf --
  # An arm's, that ended before its first command.
  find "$out" -mindepth 1 -maxdepth 1 -type d -empty -delete
  rm -f -- "$out"/{plan,host,verdict}.json "$out"/report.md "$out"/*.svg "$out"/*.png
}

# --- the programs --------------------------------------------------------------------------------
build() {
  local code=0 built=${CARGO_TARGET_DIR:-target}
  build_programs "$built" 7>&- 9>&- &
  pids[build]=$!
  wait "${pids[build]}" || code=$?
  unset 'pids[build]'
  ((code == 0)) || die "the build failed, with exit code $code (cargo's words are above)"
  bin=$built/release
}

# --- the cluster ---------------------------------------------------------------------------------
cluster_id() { sed -n 's/^cluster_id=//p' "$data/backpressure-lab.cluster"; }

# A folder with our marker is no cluster that is up: after a reboot nothing of it runs.
have_cluster() {
  local state new=(--topic '' --min-disk "$(disk_needed)" ${cluster_flags[@]+"${cluster_flags[@]}"})
  if ! cluster brokers >/dev/null 2>&1; then
    cluster_is_ours=yes
  elif [[ $left_behind && $left_behind == "$(cluster_id)" ]]; then
    log warn cluster_left_behind "data=$data by='a run that was killed'"
    cluster_is_ours=yes
    cluster down
  else
    new=()
    state=$(cluster status 2>/dev/null) || true
    [[ $state == *pid=[0-9]* ]] ||
      die "no broker of the cluster in $data is alive: 'run/cluster.sh up --data $data' brings it back, 'run/cluster.sh down --data $data' deletes it"
  fi
  # As `cluster up`, but that it undoes what it has begun when this script is killed.
  brokers=$(exec "${tied[@]}" "$here/cluster.sh" up ${new[@]+"${new[@]}"} ${port[@]+"${port[@]}"} \
    --data "$data" 7>&- 9>&-)
  if [[ $cluster_is_ours ]]; then cluster_id >"$data.lock"; fi
}
