# shellcheck shell=bash disable=SC2154 # data: the caller's
# Sourced: folders that can be filled to the last byte. The caller is root in a mount namespace
# of its own (unshare --mount), and has a function `cluster VERB...`, and `data`.
#
#   small_folder DIR SIZE, small_folder_gone DIR     onto a tmpfs of that size, and back
#   fill_folder DIR, free_folder DIR
#   small_disk N SIZE, fill_disk N, free_disk N, small_disk_gone N     the same of broker N's data,
#                                        which is stopped in an orderly way and started around it
#   small_folders_gone                   in a hurry: what was written on them since is dropped
#
# A tmpfs is laid over the folder with a copy of its files; below, the folder stays as it was. So
# whatever happens, the real disk holds a whole folder, and once the namespace is gone, that one
# alone. It fills no real disk.

small_folders=()

small_folder() { # DIR SIZE (as tmpfs has it: 64m)
  local dir=$1 aside=$1.small
  require mount fallocate
  [[ ! /proc/self/ns/mnt -ef /proc/1/ns/mnt ]] || die "a small folder needs a mount namespace of its own: unshare --mount"
  mkdir -p "$dir" "$aside"
  small_folders+=("$dir")
  mount -t tmpfs -o "size=$2,mode=$(stat -c %a "$dir")" small-folder "$aside"
  cp -a --sparse=always "$dir/." "$aside"
  mount --move "$aside" "$dir"
  rmdir "$aside"
}

# Nothing may have a file open there.
small_folder_gone() { # DIR
  local dir=$1 aside=$1.small
  free_folder "$dir"
  cp -a --sparse=always "$dir" "$aside"
  umount "$dir"
  rm -rf -- "$dir"
  mv -T "$aside" "$dir"
  forget_folder "$dir"
}

small_folders_gone() {
  local dir
  for dir in ${small_folders[@]+"${small_folders[@]}"}; do
    umount --lazy "$dir.small" 2>/dev/null || umount --lazy "$dir" 2>/dev/null || true
  done
  small_folders=()
}

forget_folder() { # DIR
  local dir kept=()
  for dir in "${small_folders[@]}"; do [[ $dir == "$1" ]] || kept+=("$dir"); done
  small_folders=(${kept[@]+"${kept[@]}"})
}

# Most of it at once; then page by page until a write fails, as others write there too.
fill_folder() { # DIR
  [[ " ${small_folders[*]-} " == *" $1 "* ]] || die "fill_folder $1: only a small folder is filled"
  fallocate -l "$(df -B1 --output=avail "$1" | tail -n 1)" "$1/ballast" 2>/dev/null || true
  cat /dev/zero >>"$1/ballast" 2>/dev/null || true
}

free_folder() { rm -f -- "$1/ballast"; } # DIR

# --- a broker's ----------------------------------------------------------------------------------
# A broker does not mind a file that is not its own among the folders of its partitions. It halts
# at the first write that fails (the only folder for its logs is gone); an idle one goes on.
broker_data() { echo "$data/broker-$1/data"; }

small_disk() { # N SIZE
  cluster stop "$1"
  small_folder "$(broker_data "$1")" "$2"
  cluster start "$1"
}

fill_disk() { # N
  fill_folder "$(broker_data "$1")"
  log info disk_filled "broker=$1"
}

free_disk() { # N
  free_folder "$(broker_data "$1")"
  log info disk_freed "broker=$1"
}

small_disk_gone() { # N
  cluster stop "$1"
  small_folder_gone "$(broker_data "$1")"
  cluster start "$1"
}
