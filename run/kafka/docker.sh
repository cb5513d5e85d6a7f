# shellcheck shell=bash disable=SC2154 # data, port, version, cluster_id, root: cluster.sh's
# Sourced by cluster.sh: three brokers in containers, by docker/compose.yaml. It answers to the
# same names as jvm.sh. The project's name comes from the data folder, so clusters do not mix.

compose() {
  KAFKA_VERSION=$version KAFKA_CLUSTER_ID=$cluster_id KAFKA_PORT_1=$(broker_port 1) \
    KAFKA_PORT_2=$(broker_port 2) KAFKA_PORT_3=$(broker_port 3) \
    docker compose -f "$root/docker/compose.yaml" \
    -p "backpressure-lab-$(cksum <<<"$data" | cut -d' ' -f1)" "$@"
}

docker_answers() { timeout 10 docker info && docker compose version; } >/dev/null 2>&1

docker_pid() {
  local id
  id=$(compose ps -q --status running "broker-$1")
  if [[ $id ]]; then docker inspect -f '{{.State.Pid}}' "$id"; fi
}

# The engine's proxy accepts on the published port before the broker does: ask the health check.
docker_ready() {
  local id
  id=$(compose ps -q --status running "broker-$1")
  [[ $id && $(docker inspect -f '{{.State.Health.Status}}' "$id") == healthy ]]
}

# By its name in docker/compose.yaml, and without that file, whose other settings `fetch` does not have;
# an image that is here needs no network.
docker_fetch() {
  docker image inspect "apache/kafka:$version" >/dev/null 2>&1 || docker pull "apache/kafka:$version" >&2 ||
    die "docker could not pull Kafka $version (its own words are above): try another --version, or --mode jvm"
}

docker_launch() {
  compose up -d --no-deps "broker-$1" >&2 ||
    die "docker compose could not start broker $1 (its own words are above)"
}

docker_signal() { compose kill -s "SIG$1" "broker-$2" >&2; }
docker_tail() { compose logs --no-log-prefix --tail 15 "broker-$1" >&2 || true; }

docker_topics() { docker_tool kafka-topics.sh "$@"; }
docker_groups() { docker_tool kafka-consumer-groups.sh "$@"; }

docker_tool() { # SCRIPT ARGS...
  local n
  for n in 1 2 3; do
    if [[ $(docker_pid "$n") ]]; then
      timeout --foreground "$CLI_WITHIN_S" docker exec "$(compose ps -q "broker-$n")" \
        "/opt/kafka/bin/$1" \
        --bootstrap-server broker-1:9092,broker-2:9092,broker-3:9092 "${@:2}"
      return
    fi
  done
  echo 'no broker is up'
  return 1
}
