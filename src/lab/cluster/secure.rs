//! `up --secure`: the certificates, the password and the settings of the brokers' listener SECURE (SASL_SSL).
//! The folder `secure`, readable by its owner only, has:
//!
//! ```text
//! ca.pem               the CA that signed the brokers' certificate; the CA's key is deleted
//! password             the password of user `lab`, random, without a newline
//! client.properties    both, for Kafka's own tools (--command-config)
//! broker.p12, broker.password    the brokers' key and certificate
//! ```
//! A password is passed by file or by stdin. It is never on a command line and never in a log. No ACLs.

use std::fmt::Write as _;
use std::fs::{self, DirBuilder};
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;

use super::Cluster;
use super::folder::{failed, random};
use crate::failure::Failure;
use crate::lab::tools;

const SCRAM: [&str; 2] = ["SCRAM-SHA-256", "SCRAM-SHA-512"];
const LOGIN: &str = "org.apache.kafka.common.security";

/// Makes a folder that is its owner's alone from the start, so its files need no protection of
/// their own.
pub fn make_private(dir: &Path) -> Result<(), Failure> {
    match DirBuilder::new().mode(0o700).create(dir) {
        Err(e) if e.kind() != ErrorKind::AlreadyExists => Err(failed(dir, &e)),
        _ => Ok(()),
    }
}

/// Makes the folder, where it is not there. It is filled under another name and renamed, so it is whole or absent.
/// The certificates are valid from yesterday on: a client whose clock is one hour behind accepts them.
pub fn make(cluster: &Cluster) -> Result<(), Failure> {
    let (dir, new) = (cluster.data.join("secure"), cluster.data.join("secure.new"));
    if dir.is_dir() {
        return Ok(());
    }
    let _of_a_killed_run = fs::remove_dir_all(&new);
    make_private(&new)?;
    let write = |name: &str, text: &str| {
        let path = new.join(name);
        fs::write(&path, text).map_err(|e| failed(&path, &e))
    };
    let password = random::<24>()?;
    write("password", &password)?;
    write("broker.password", &random::<24>()?)?;
    let [store, secret, ca] = ["broker.p12", "broker.password", "ca.pem"]
        .map(|name| new.join(name).display().to_string());
    // Without the optimizing compiler and the parallel collector each call takes half as long.
    let fast = ["keytool", "-J-XX:TieredStopAtLevel=1", "-J-XX:+UseSerialGC"];
    let same = ["-keystore", &store, "-storetype", "PKCS12", "-storepass:file", &secret];
    let key = |words: &[&str]| tools::run(&[&fast, words, &same].concat());
    let pair =
        ["-keyalg", "EC", "-groupname", "secp256r1", "-startdate", "-1d", "-validity", "3650"];
    let pair = |words: &[&str]| key(&[&["-genkeypair"], words, &pair].concat());
    let names = format!("san=dns:localhost,ip:127.0.0.1,ip:{}", cluster.host);
    pair(&["-alias", "ca", "-dname", "CN=backpressure lab CA", "-ext", "bc:critical"])?;
    pair(&[
        "-alias",
        "broker",
        "-dname",
        "CN=backpressure lab broker",
        "-signer",
        "ca",
        "-ext",
        &names,
    ])?;
    key(&["-exportcert", "-alias", "ca", "-rfc", "-file", &ca])?;
    key(&["-delete", "-alias", "ca"])?;
    let truststore = dir.join("ca.pem");
    let client = format!(
        "security.protocol=SASL_SSL\nsasl.mechanism=SCRAM-SHA-512\n\
         sasl.jaas.config={LOGIN}.scram.ScramLoginModule required username=\"lab\" password=\"{password}\";\n\
         ssl.truststore.type=PEM\nssl.truststore.location={}\n",
        truststore.display()
    );
    write("client.properties", &client)?;
    fs::rename(&new, &dir).map_err(|e| failed(&dir, &e))?;
    log::info!(dir = dir.display().to_string(), user = "lab"; "certificates and password made");
    Ok(())
}

/// The users' part of StorageTool's arguments, for java's @file.
pub fn users(data: &Path) -> Result<String, Failure> {
    let password = read(data, "password")?;
    Ok(SCRAM
        .map(|mechanism| format!("--add-scram {mechanism}=[name=lab,password={password}]\n"))
        .concat())
}

/// The listener's part of `server.properties`. PLAIN has its user here; those of SCRAM are in the cluster's
/// metadata, from the formatting on.
pub fn properties(data: &Path) -> Result<String, Failure> {
    let (store, at) = (data.join("secure/broker.p12"), "listener.name.secure");
    let (secret, password) = (read(data, "broker.password")?, read(data, "password")?);
    let mut text = format!(
        "{at}.ssl.keystore.type=PKCS12\n{at}.ssl.keystore.location={}\n{at}.ssl.keystore.password={secret}\n\
         {at}.sasl.enabled.mechanisms={},PLAIN\n\
         {at}.plain.sasl.jaas.config={LOGIN}.plain.PlainLoginModule required user_lab=\"{password}\";\n",
        store.display(),
        SCRAM.join(",")
    );
    for mechanism in SCRAM.map(str::to_lowercase) {
        let module = format!("{LOGIN}.scram.ScramLoginModule");
        let _never_fails = writeln!(text, "{at}.{mechanism}.sasl.jaas.config={module} required;");
    }
    Ok(text)
}

fn read(data: &Path, name: &str) -> Result<String, Failure> {
    let path = data.join("secure").join(name);
    fs::read_to_string(&path).map_err(|e| failed(&path, &e))
}
