# shellcheck shell=bash disable=SC2154 # data, host, LOOPBACK: cluster.sh's
# Sourced by cluster.sh for `up --secure` (jvm mode): the certificates, the password and the settings of
# the brokers' listener SECURE (SASL_SSL). Folder $data/secure, readable by its owner only, has:
#   ca.pem               the CA that signed the brokers' certificate; the CA's key is deleted
#   password             the password of user `lab`, random, without a newline
#   client.properties    both, for Kafka's own tools (--command-config)
#   broker.p12, broker.password    the brokers' key and certificate
# A password is passed by file or by stdin. It is never on a command line and never in a log. No ACLs.

readonly SECURE_USER=lab SCRAM=(SCRAM-SHA-256 SCRAM-SHA-512)

random_password() { head -c 24 /dev/urandom | base64 | tr '+/' 'ab' | tr -d '\n'; }

# The folder is filled under another name and renamed, so it is whole or absent. The certificates are
# valid from yesterday on: a client whose clock is one hour behind accepts them.
secure_files() {
  local to=$data/secure.new names=dns:localhost,ip:$LOOPBACK
  if [[ -d $data/secure ]]; then return; fi
  if [[ $host != "$LOOPBACK" ]]; then names+=,ip:$host; fi
  rm -rf -- "$to"
  mkdir "$to"
  random_password >"$to/password"
  random_password >"$to/broker.password"
  key -genkeypair -alias ca -dname 'CN=backpressure lab CA' -ext bc:critical
  key -genkeypair -alias broker -dname 'CN=backpressure lab broker' -signer ca -ext "san=$names"
  key -exportcert -alias ca -rfc -file "$to/ca.pem"
  key -delete -alias ca
  cat >"$to/client.properties" <<TEXT
security.protocol=SASL_SSL
sasl.mechanism=SCRAM-SHA-512
sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required username="$SECURE_USER" password="$(<"$to/password")";
ssl.truststore.type=PEM
ssl.truststore.location=$data/secure/ca.pem
TEXT
  mv -T "$to" "$data/secure"
  log info secure_files_made "dir=$data/secure user=$SECURE_USER"
}

# Runs keytool on the keystore that secure_files fills. Without the optimizing compiler and the parallel
# collector each call takes half as long.
key() { # COMMAND OPTIONS...
  local out with=()
  if [[ $1 == -genkeypair ]]; then with=(-keyalg EC -groupname secp256r1 -startdate -1d -validity 3650); fi
  out=$(keytool -J-XX:TieredStopAtLevel=1 -J-XX:+UseSerialGC "$@" ${with[@]+"${with[@]}"} \
    -keystore "$to/broker.p12" -storetype PKCS12 -storepass:file "$to/broker.password" 2>&1) ||
    die "keytool $1 failed: $out"
}

# The users' part of StorageTool's arguments, for java's @file.
secure_users() {
  local mechanism
  for mechanism in "${SCRAM[@]}"; do
    echo "--add-scram $mechanism=[name=$SECURE_USER,password=$(<"$data/secure/password")]"
  done
}

# The listener's part of server.properties, on stdout. PLAIN has its user here; those of SCRAM are
# in the cluster's metadata, from the formatting on.
secure_config() {
  local mechanism at=listener.name.secure login=org.apache.kafka.common.security
  cat <<TEXT
$at.ssl.keystore.type=PKCS12
$at.ssl.keystore.location=$data/secure/broker.p12
$at.ssl.keystore.password=$(<"$data/secure/broker.password")
$at.sasl.enabled.mechanisms=$(IFS=, && echo "${SCRAM[*]}"),PLAIN
$at.plain.sasl.jaas.config=$login.plain.PlainLoginModule required user_$SECURE_USER="$(<"$data/secure/password")";
TEXT
  for mechanism in "${SCRAM[@],,}"; do
    echo "$at.$mechanism.sasl.jaas.config=$login.scram.ScramLoginModule required;"
  done
}
