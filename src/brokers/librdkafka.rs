//! The settings and the log of every librdkafka client of ours.

use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::KafkaError;

use super::Brokers;

impl Brokers {
    /// A consumer's settings as far as all of ours share them: it commits by hand or not at all.
    pub fn librdkafka(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        for (name, value) in self.properties() {
            config.set(name, value);
        }
        config
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("reconnect.backoff.max.ms", "2000")
            .set("log.connection.close", "false")
            .set_log_level(RDKafkaLogLevel::Notice);
        config
    }
}

/// Logs a line of librdkafka's.
pub fn log_line(level: RDKafkaLogLevel, facility: &str, message: &str) {
    if facility == "MAXPOLL" || (level as i32) <= RDKafkaLogLevel::Error as i32 {
        log::warn!(facility = facility; "librdkafka: {message}");
    } else {
        log::debug!(facility = facility; "librdkafka: {message}");
    }
}

/// Logs an error that librdkafka reports, and handles by itself.
pub fn log_error(error: &KafkaError, reason: &str) {
    log::debug!(why = error.to_string().as_str(); "librdkafka: {reason}");
}
