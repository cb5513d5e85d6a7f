#!/usr/bin/env bash
# Makes local images under the names in docker/compose.yaml and docker/Dockerfile, for a machine
# that reaches no registry of images: Debian by debootstrap, this machine's Rust toolchain and
# crates, Kafka's jars as run/cluster.sh keeps them, Debian's Prometheus. For tests of the stack, as
# root; a machine that can pull images does not need it. There is no image for Grafana.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
# shellcheck source=run/prereq.sh
source "$here/../run/prereq.sh"
require docker debootstrap tar rustc cargo
export DOCKER_BUILDKIT=0 # the old builder, which every engine has

# The names of images and releases in those files.
kafka=$(sed -n 's/.*KAFKA_VERSION:-\([0-9.]*\).*/\1/p' "$here/compose.yaml" | head -n 1)
prometheus=$(sed -n 's/^ *image: \(prom[^ ]*\)$/\1/p' "$here/compose.yaml")
rust=$(sed -n 's/^FROM \(rust:[^ ]*\) .*/\1/p' "$here/Dockerfile")
debian=$(sed -n 's/^FROM \(debian:[^ ]*\)$/\1/p' "$here/Dockerfile")
jars=${XDG_CACHE_HOME:-$HOME/.cache}/backpressure-lab/kafka-$kafka

tmp=$(mktemp -d "${TMPDIR:-/var/tmp}/backpressure-lab-images.XXXXXX")
trap 'rm -rf -- "${tmp:?}"' EXIT

has() { docker image inspect "$1" >/dev/null 2>&1; }
# build NAME DIR: from DIR/Dockerfile, on this machine's network.
build() { docker build --quiet --network host --tag "$1" "$2" >/dev/null; }

# --- Debian, with this machine's package sources ------------------------------------------------
if ! has "$debian"; then
  debootstrap --variant=minbase --include=ca-certificates bookworm "$tmp/debian" >&2
  cp -a /etc/apt/sources.list.d /etc/apt/apt.conf.d "$tmp/debian/etc/apt/"
  cp -a /etc/ssl/certs "$tmp/debian/etc/ssl/"
  rm -f "$tmp/debian/etc/apt/sources.list" "$tmp"/debian/var/cache/apt/archives/*.deb
  tar -C "$tmp/debian" -c . | docker import --change 'CMD ["bash"]' - "$debian" >/dev/null
fi

# --- Rust: the toolchain and the crates that are here -------------------------------------------
if ! has "$rust"; then
  cargo fetch --quiet --locked --manifest-path "$here/../Cargo.toml"
  mkdir -p "$tmp/rust/cargo"
  cp -a "$(rustc --print sysroot)" "$tmp/rust/toolchain"
  rm -rf "$tmp"/rust/toolchain/share/doc
  cp -a "${CARGO_HOME:-$HOME/.cargo}/registry" "$tmp/rust/cargo/"
  [[ ! -e ${CARGO_HOME:-$HOME/.cargo}/config.toml ]] || cp "${CARGO_HOME:-$HOME/.cargo}/config.toml" "$tmp/rust/cargo/"
  cat >"$tmp/rust/Dockerfile" <<TEXT
FROM $debian
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
COPY toolchain /usr/local/toolchain
COPY cargo /usr/local/cargo
ENV CARGO_HOME=/usr/local/cargo CARGO_NET_OFFLINE=true PATH=/usr/local/toolchain/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
TEXT
  build "$rust" "$tmp/rust"
  rm -rf "$tmp/rust"
fi

# --- Kafka: the jars, and as much of the image's own scripts as the stack uses ------------------
if ! has "apache/kafka:$kafka"; then
  "$here/../run/cluster.sh" fetch --mode jvm --version "$kafka"
  mkdir -p "$tmp/kafka/docker" "$tmp/kafka/bin"
  cp -a "$jars" "$tmp/kafka/libs"
  : >"$tmp/kafka/docker/server.properties"
  : >"$tmp/kafka/docker/log4j2.yaml"
  cat >"$tmp/kafka/docker/run" <<'TEXT'
#!/usr/bin/env bash
set -e
in_jvm() { java ${KAFKA_HEAP_OPTS:-} -cp '/opt/kafka/libs/*' "$@"; }
# A broker that is started again has its folder formatted, as in the image's own script.
said=$(in_jvm kafka.docker.KafkaDockerWrapper setup --default-configs-dir /etc/kafka/docker \
  --mounted-configs-dir /mnt/shared/config --final-configs-dir /opt/kafka/config 2>&1) \
  || grep -qi 'already formatted' <<<"$said" || { echo "$said" && exit 1; }
exec java ${KAFKA_HEAP_OPTS:-} -cp '/opt/kafka/libs/*' kafka.Kafka /opt/kafka/config/server.properties
TEXT
  cat >"$tmp/kafka/bin/kafka-topics.sh" <<'TEXT'
#!/usr/bin/env bash
exec java ${KAFKA_HEAP_OPTS:-} -cp '/opt/kafka/libs/*' org.apache.kafka.tools.TopicCommand "$@"
TEXT
  chmod +x "$tmp/kafka/docker/run" "$tmp/kafka/bin/kafka-topics.sh"
  cat >"$tmp/kafka/Dockerfile" <<TEXT
FROM $debian
RUN apt-get update && apt-get install -y --no-install-recommends openjdk-17-jre-headless && rm -rf /var/lib/apt/lists/*
RUN useradd --uid 1000 --create-home appuser && install -d -o appuser /var/lib/kafka/data /opt/kafka/config /opt/kafka/logs /mnt/shared/config
COPY libs /opt/kafka/libs
COPY bin /opt/kafka/bin
COPY docker /etc/kafka/docker
USER appuser
VOLUME /var/lib/kafka/data
CMD ["/etc/kafka/docker/run"]
TEXT
  build "apache/kafka:$kafka" "$tmp/kafka"
  rm -rf "$tmp/kafka"
fi

# --- Prometheus: Debian's, of whatever release that is ------------------------------------------
if ! has "$prometheus"; then
  mkdir -p "$tmp/prometheus"
  cat >"$tmp/prometheus/Dockerfile" <<TEXT
FROM $debian
RUN apt-get update && apt-get install -y --no-install-recommends prometheus wget && rm -rf /var/lib/apt/lists/* /etc/prometheus/*
ENTRYPOINT ["/usr/bin/prometheus", "--storage.tsdb.path=/prometheus"]
CMD ["--config.file=/etc/prometheus/prometheus.yml"]
TEXT
  build "$prometheus" "$tmp/prometheus"
fi
docker image ls
