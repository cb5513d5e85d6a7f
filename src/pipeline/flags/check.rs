//! Flags against each other: what no single flag's range can say.

use std::path::Path;

use super::{Flags, GroupProtocol, SESSION_TIMEOUT, secs};
use crate::cli;
use crate::failure::Failure;
use crate::planes::{Client, Isolation};
use crate::policy::shed::Who;
use crate::queue;
use crate::sink::sizing;
use crate::units;

impl Flags {
    /// What no single flag's range can say.
    pub(super) fn check(&self) -> Result<(), Failure> {
        cli::check_topic(&self.topic)?;
        cli::check_group(&self.group)?;
        self.instance_id.as_deref().map_or(Ok(()), cli::check_instance_id)?;
        if self.isolation == Isolation::ReadCommitted && self.client == Client::Kafka {
            return Err(Failure::Usage(
                "--isolation read-committed needs --client wire: crate kafka knows no transactions"
                    .into(),
            ));
        }
        self.policy.check(self.queue, self.shed, self.credit_window)?;
        self.check_spill()?;
        if self.p99_target.is_some() && !self.batch_size.has_target() {
            let value = self.p99_target.map_or_else(String::new, units::show);
            let why = "is what --batch-size aimd and debloat aim at: it needs one of them";
            return Err(Failure::flag("--p99-target", value, why));
        }
        let is_held = matches!(self.shed, Who::Sojourn | Who::Pid);
        if is_held && !matches!(self.batch_size, sizing::Name::Events(_)) {
            let why =
                "holds a wait by what workers have in flight: it needs a number in --batch-size";
            return Err(Failure::flag("--shed", self.shed.name(), why));
        }
        self.check_protocol()?;
        self.check_paths()?;
        let session_timeout = self.session_timeout.unwrap_or(SESSION_TIMEOUT);
        let is_said = self.group_protocol == GroupProtocol::Classic;
        if is_said && (session_timeout < secs(1) || session_timeout > self.max_poll_interval) {
            return Err(Failure::flag(
                "--session-timeout",
                units::show(session_timeout),
                "expected 1s up to --max-poll-interval (librdkafka requires it)",
            ));
        }
        if self.max_poll_interval > secs(86_400) {
            let value = units::show(self.max_poll_interval);
            return Err(Failure::flag("--max-poll-interval", value, "expected at most 1d"));
        }
        if self.stuck_after <= self.sink_timeout {
            let value = units::show(self.stuck_after);
            let limit = "expected more than --sink-timeout: a call may take that long";
            return Err(Failure::flag("--stuck-after", value, limit));
        }
        if self.revoke_wait >= self.max_poll_interval {
            let value = units::show(self.revoke_wait);
            let limit = "expected less than --max-poll-interval: nothing is polled meanwhile";
            return Err(Failure::flag("--revoke-wait", value, limit));
        }
        if self.fetch_bytes > self.fetch_bytes_max {
            let limit = format!("expected at most --fetch-bytes-max {}", self.fetch_bytes_max);
            return Err(Failure::flag("--fetch-bytes", self.fetch_bytes, &limit));
        }
        Ok(())
    }

    /// What librdkafka would refuse by a name of its own.
    fn check_protocol(&self) -> Result<(), Failure> {
        if self.group_protocol == GroupProtocol::Classic {
            return Ok(());
        }
        for (flag, is_there, instead) in [
            (
                "--assignor",
                self.assignor.is_some(),
                "the coordinator assigns, by group.consumer.assignors",
            ),
            (
                "--session-timeout",
                self.session_timeout.is_some(),
                "the broker says it, group.consumer.session.timeout.ms",
            ),
        ] {
            if is_there {
                return Err(Failure::Usage(format!(
                    "{flag} does not go with --group-protocol consumer: {instead}; leave {flag} away"
                )));
            }
        }
        Ok(())
    }

    /// An empty path would be the working directory, or no file at all.
    fn check_paths(&self) -> Result<(), Failure> {
        let letters = self.dead_letter.as_deref().map(Path::new);
        for (flag, path) in [
            ("--spill-dir", self.spill_dir.as_deref()),
            ("--shed-ids", self.shed_ids.as_deref()),
            ("--hlog", self.hlog.as_deref()),
            ("--dead-letter", letters),
        ] {
            if path.is_some_and(|path| path.as_os_str().is_empty()) {
                return Err(Failure::flag(flag, "''", "expected a path"));
            }
        }
        Ok(())
    }

    fn check_spill(&self) -> Result<(), Failure> {
        if self.queue == queue::Name::Spill {
            if self.spill_dir.is_none() {
                let why = "--spill-dir is missing: --queue spill needs a folder, such as --spill-dir spill";
                return Err(Failure::Usage(why.into()));
            }
            return Ok(());
        }
        for (flag, is_there) in [
            ("--spill-dir", self.spill_dir.is_some()),
            ("--spill-max", self.spill_max.is_some()),
            ("--spill-commit", self.spill_commit.is_some()),
        ] {
            if is_there {
                return Err(Failure::Usage(format!("{flag} needs --queue spill")));
            }
        }
        Ok(())
    }
}
