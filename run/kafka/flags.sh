# shellcheck shell=bash disable=SC2034,SC2154 # read by, and from, run/cluster.sh
# Sourced by run/cluster.sh: its words and what they may be. Everything is checked before anything is
# touched; what is wrong ends with exit code 2 and names the option, its value and what is allowed.
#
#   parse ARGS...          fills verb, args[], configs[] and opt_*; an option not given stays unset
#   check_values, check_data, check_broker, check_topic_verb, check_options

usage() {
  cat <<'TEXT'
usage: run/cluster.sh VERB [OPTIONS]

  fetch                 get what `up` needs of Kafka, which then needs no network for it
                        (its --version and --mode count here too)
  up                    start three brokers, make the topic, print the bootstrap list
  down                  kill the brokers and delete their data; leaves nothing
  status                one line a broker; exit 0 when all three are up, else 1
  brokers               print the bootstrap list, as `up` did
  kill N                signal 9 to broker N (1, 2 or 3)
  stop N                orderly stop of broker N
  start N               start broker N again, wait until it accepts connections
  topic create NAME [--partitions N] [--config KEY=VALUE]...
                        (replication 3; waits until it is in sync)
  topic grow NAME --partitions N         (adds partitions)
  topic delete NAME
  topic list
  coordinator GROUP     print the number of the broker that coordinates a consumer group

options of every verb:
  --data DIR            data folder (default: .cluster beside run/)
  -h, --help            this text
options of up (a cluster that is up remembers them):
  --topic NAME          topic to make (default events); '' makes none
  --partitions N        its partitions (default 12), 1 to 1000
  --version X.Y.Z       Kafka release, 3.9.x or 4.x (default: the one pinned in run/kafka/pom.xml)
  --port P              brokers on P to P+2 (--secure: and P+10 to P+12), controllers on P+100 to
                        P+102, a run's live page on P+200; default 19092, 1024 to 65335
  --host ADDR           IPv4 address of this machine where the brokers listen instead (jvm mode;
                        default 127.0.0.1). Anything but loopback is open to that network, without
                        authentication unless --secure; the controllers stay on 127.0.0.1
  --secure              clients come in by SASL_SSL, on P+10 to P+12 (jvm mode): a CA of this cluster's
                        own; SCRAM-SHA-256, SCRAM-SHA-512 and PLAIN for user `lab`. What they need is in
                        DIR/secure: ca.pem, password, and both in client.properties for Kafka's tools.
                        P to P+2 are plaintext on 127.0.0.1, for the brokers and this script
  --mode MODE           auto, docker or jvm (default auto: docker where an engine answers)
  --min-disk SIZE       free space wanted under the data folder (default 2GiB); e.g. 512MiB

exit: 0 done, 1 failed or not up, 2 wrong usage
TEXT
}

parse() {
  args=() configs=()
  while (($# > 0)); do
    case $1 in
      -h | --help) usage; exit 0 ;;
      --*=*) set -- "${1%%=*}" "${1#*=}" "${@:2}"; continue ;;
      --secure) opt_secure=yes; shift ;;
      --data | --topic | --partitions | --version | --port | --host | --mode | --min-disk)
        (($# > 1)) || misuse "$1 needs a value"
        local name=${1#--}
        printf -v "opt_${name//-/_}" '%s' "$2"
        shift 2 ;;
      --config)
        [[ ${2-} =~ ^[a-z.]+=[A-Za-z0-9.,_-]+$ ]] || misuse "--config '${2-}': allowed: KEY=VALUE, such as retention.ms=60000"
        configs+=(--config "$2")
        shift 2 ;;
      -*) misuse "unknown option '$1'" ;;
      *) args+=("$1"); shift ;;
    esac
  done
  ((${#args[@]} > 0)) || misuse "no verb given; allowed: $VERBS"
  verb=${args[0]}
  args=("${args[@]:1}")
}

# whole VALUE MIN MAX: is VALUE a whole number in that range?
whole() { [[ $1 =~ ^[1-9][0-9]{0,6}$ ]] && (($1 >= $2 && $1 <= $3)); }

check_values() {
  [[ ${opt_data-.} ]] || misuse "--data '': not a folder; allowed: a path"
  whole "${opt_partitions-12}" 1 1000 ||
    misuse "--partitions '$opt_partitions': allowed: a whole number, 1 to 1000"
  whole "${opt_port-19092}" 1024 65335 ||
    misuse "--port '$opt_port': allowed: a whole number, 1024 to 65335"
  local byte='(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])'
  [[ ${opt_host-$LOOPBACK} =~ ^$byte(\.$byte){3}$ ]] ||
    misuse "--host '$opt_host': allowed: an IPv4 address, such as 127.0.0.1"
  [[ ${opt_version-4.0.0} =~ ^(3\.9|4\.[0-9]+)\.[0-9]+$ ]] ||
    misuse "--version '$opt_version': allowed: 3.9.x or 4.x.y, such as 3.9.2"
  [[ ${opt_mode-auto} =~ ^(auto|docker|jvm)$ ]] ||
    misuse "--mode '$opt_mode': allowed: auto, docker, jvm"
  [[ ! ${opt_secure-} || ${opt_mode-auto} != docker ]] ||
    misuse "--secure with --mode docker: the containers have no such listener; allowed: --mode jvm, auto"
  [[ ${opt_min_disk-2GiB} =~ ^[0-9]{1,6}([KMGT]iB)?$ ]] ||
    misuse "--min-disk '$opt_min_disk': allowed: bytes or a size such as 512MiB, 2GiB"
  [[ -z ${opt_topic-} ]] || check_topic --topic "$opt_topic"
}

check_data() {
  local LC_ALL=C
  [[ $data != *[!\ -~]* && $data != *[,\\]* ]] ||
    misuse "--data '$data': Kafka cannot use this path; allowed: printable ASCII without comma or backslash"
}

check_topic() {
  [[ $2 =~ ^[A-Za-z0-9._-]{1,249}$ && ! $2 =~ ^\.{1,2}$ ]] ||
    misuse "$1 '$2': allowed: 1 to 249 letters, digits, '.', '_', '-'"
}

check_broker() {
  [[ ${#args[@]} == 1 && ${args[0]} =~ ^[123]$ ]] ||
    misuse "$verb '${args[*]-}': allowed: one broker, 1, 2 or 3"
}

check_topic_verb() {
  case ${args[0]-}/${#args[@]} in
    create/2 | delete/2) check_topic "topic ${args[0]}" "${args[1]}" ;;
    grow/2)
      check_topic "topic ${args[0]}" "${args[1]}"
      [[ ${opt_partitions-} ]] || misuse 'topic grow needs --partitions N' ;;
    list/1) ;;
    *) misuse "topic '${args[*]-}': allowed: create NAME, grow NAME, delete NAME, list" ;;
  esac
}

# An option that its verb would ignore is a mistake: the caller means another cluster.
check_options() {
  [[ $verb != up ]] || return 0
  local name ups=(topic port host secure min_disk)
  [[ $verb == fetch ]] || ups+=(version mode)
  for name in "${ups[@]}"; do
    [[ -z "$(declare -p "opt_$name" 2>/dev/null)" ]] ||
      misuse "--${name/_/-} is an option of 'up', not of '$verb'; allowed here: --data"
  done
  [[ -z ${opt_partitions-} || $verb/${args[0]-} =~ ^topic/(create|grow)$ ]] ||
    misuse "--partitions is an option of 'up', 'topic create' and 'topic grow', not of '$verb'"
  ((${#configs[@]} == 0)) || [[ $verb/${args[0]-} == topic/create ]] ||
    misuse "--config is an option of 'topic create'"
}
