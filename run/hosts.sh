# shellcheck shell=bash
# Sourced: two "hosts" on one machine, and faults on what joins them. The caller is root in a
# network namespace of its own (unshare --net); a second one, reached by the prefix
# `"${at_processor[@]}" COMMAND...`, is the processor's. Three links, .1 here and .2 there:
#
#   brokers 10.199.1.0/24     sink 10.199.2.0/24     management 10.199.3.0/24 (never harmed)
#
#   hosts_up, hosts_down
#   network cut|delay|lose|heal brokers|sink     both directions; sets network_by=netem|nft|tbf
#   network_harmed cut|delay|lose brokers|sink   how many packets that has dropped, or held up
#
# One fault a link at a time: a new one takes the place of the old. It touches no other namespace;
# what it made is gone with the calling process, however that ends.

readonly LINKS=(brokers sink management)
# `delay` where the kernel has no netem: a bottleneck, whose delay is what waits before it. W calls
# of B bytes under way at once wait W x B / rate: 64 x 770 B at 1 MB/s are 50 ms. The caller may
# set another rate.
readonly BOTTLENECK_QUEUE=300ms
bottleneck_rate=8mbit
at_processor=() network_by='' hosts_holder=''
declare -A network_on=() # link -> what is in its way: netem, nft or tbf

hosts_up() {
  local holder there link n=0 end=$((SECONDS + 5))
  require ip tc nsenter unshare setpriv setsid
  [[ ! /proc/self/ns/net -ef /proc/1/ns/net ]] || die "two hosts need a network namespace of their own: unshare --net"
  if tc qdisc replace dev lo root netem 2>/dev/null; then tc qdisc delete dev lo root; else require nft; fi
  # The namespace lives as long as this process, and that no longer than we do.
  setsid setpriv --pdeathsig KILL unshare --net sleep infinity </dev/null >/dev/null 2>&1 7>&- 9>&- &
  holder=$!
  until there=$(readlink "/proc/$holder/ns/net") && [[ $there != $(readlink /proc/self/ns/net) ]]; do
    if ! kill -0 "$holder" 2>/dev/null || ((SECONDS > end)); then
      die "no second network namespace: 'unshare --net true' must work here, as root"
    fi
    sleep 0.02
  done
  hosts_holder=$holder at_processor=(nsenter "--net=/proc/$holder/ns/net")
  both_ends ip link set lo up
  for link in "${LINKS[@]}"; do
    n=$((n + 1))
    ip link add "$link" address "02:00:00:00:0$n:01" type veth \
      peer name "$link" address "02:00:00:00:0$n:02" netns "$holder"
    ip address add "10.199.$n.1/24" dev "$link"
    "${at_processor[@]}" ip address add "10.199.$n.2/24" dev "$link"
    # What is lost or delayed is a packet of 1500 bytes, as on a wire, not 64 KiB at once.
    both_ends ip link set "$link" gso_max_segs 1 up
    # Known neighbours: no ARP that a cut could fail, which the sender would be told of.
    ip neighbour add "10.199.$n.2" lladdr "02:00:00:00:0$n:02" dev "$link"
    "${at_processor[@]}" ip neighbour add "10.199.$n.1" lladdr "02:00:00:00:0$n:01" dev "$link"
  done
  # Without a carrier, which takes up to a second, packets are dropped.
  until (($(both_ends ip -o link show | grep -c 'state UP') == 2 * ${#LINKS[@]})); do
    ((SECONDS < end)) || die "the links between the network namespaces do not come up"
    sleep 0.02
  done
}

hosts_down() {
  local link
  [[ $hosts_holder ]] || return 0
  for link in "${LINKS[@]}"; do ip link delete "$link" 2>/dev/null || true; done
  kill -KILL "$hosts_holder" 2>/dev/null || true
  wait "$hosts_holder" 2>/dev/null || true
  hosts_holder='' at_processor=() network_on=()
}

# Here and there; a link has the same name at both ends.
both_ends() { "$@" && "${at_processor[@]}" "$@"; }

network() { # cut|delay|lose|heal LINK
  local link=$2
  [[ $link == brokers || $link == sink ]] || die "network $1 '$link': allowed: brokers, sink"
  case ${network_on[$link]-} in
    nft) both_ends nft delete table ip "fault_$link" ;;
    netem | tbf) both_ends tc qdisc delete dev "$link" root ;;
  esac
  unset "network_on[$link]"
  network_by=''
  case $1 in
    # Packets vanish: no reset, no ICMP, and the sender's kernel believes that they went out.
    cut) netem "$link" loss 100% || vanish "$link" ;;
    lose) netem "$link" loss 5% || vanish "$link" numgen random mod 100 '<' 5 ;;
    # Each way; with that jitter packets also overtake each other.
    delay) netem "$link" delay 100ms 20ms || bottleneck "$link" ;;
    heal) ;;
    *) die "network '$1': allowed: cut, delay, lose, heal" ;;
  esac
  log info network "is=$1 link=$link by=${network_by:--}"
}

netem() { # LINK WHAT...
  both_ends tc qdisc replace dev "$1" root netem limit 10000 "${@:2}" 2>/dev/null || return 1
  network_by=netem network_on[$1]=netem
}

# Packets are dropped where they arrive, before anything looks at them.
vanish() { # LINK WHICH...
  both_ends nft "add table ip fault_$1; add chain ip fault_$1 arrival { type filter hook prerouting priority -300; }
    add rule ip fault_$1 arrival iifname $1 ${*:2} counter drop" 2>/dev/null || no_tool nft "$(install_line nft)"
  network_by=nft network_on[$1]=nft
}

bottleneck() { # LINK
  both_ends tc qdisc replace dev "$1" root tbf rate "$bottleneck_rate" burst 16kb latency "$BOTTLENECK_QUEUE" \
    2>/dev/null || no_tool tbf 'a kernel with sch_tbf'
  network_by=tbf network_on[$1]=tbf
}

# The kernel's own counts at both ends: the number behind a word.
network_harmed() { # cut|delay|lose LINK
  local by=${network_on[$2]} word
  case $1/$by in
    */nft) word=packets ;;        # counter packets N bytes B drop
    */tbf) word=overlimits ;;     # had to wait: (dropped N, overlimits N requeues N)
    delay/netem) word=bytes ;;    # all of them: Sent B bytes N pkt
    */netem) word='(dropped' ;;
  esac
  if [[ $by == nft ]]; then both_ends nft list table ip "fault_$2"; else both_ends tc -s qdisc show dev "$2"; fi |
    awk -v word="$word" '{ for (i = 1; i < NF; i++) if ($i == word) n += $(i + 1) } END { print n + 0 }'
}

no_tool() { # WHAT CURE
  die "the network cannot be harmed: this kernel has no netem (Debian: modprobe sch_netem; Ubuntu: apt-get install linux-modules-extra-$(uname -r)), and $1 does not work either: $2"
}
