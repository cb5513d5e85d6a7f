//! Keeps the newest heap profile of a process that may be killed at any moment.
//!
//! The profile is taken raw (`?names=no`: addresses alone), because near a memory limit the naming
//! itself could cause the kill; `lab autopsy` names it afterwards. Invariant: the folder holds a
//! whole profile; one that the kill cut short never replaces an earlier one.

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use flate2::read::GzDecoder;

use crate::failure::Failure;
use crate::http::access::Token;
use crate::http::client;
use crate::logging::said;
use crate::threads::Stop;

/// The first profile that was taken, in the folder of the samples.
pub const FIRST: &str = "heap-first.pb.gz";
/// The newest one.
pub const LAST: &str = "heap-last.pb.gz";

/// Largest profile that is kept: one of 100 MB held is 1 KB.
const PROFILE_BYTES_MAX: u64 = 16 << 20;
/// A dump takes milliseconds; a process that swaps or is being killed may never answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// Fetches the profile of one process again and again.
pub struct Keeper {
    agent: ureq::Agent,
    url: String,
    token: Option<Token>,
    every: Duration,
    dir: PathBuf,
}

impl Keeper {
    /// A keeper for the process that serves `/debug/pprof/` at `url` (`http://127.0.0.1:9902`),
    /// into `dir`.
    ///
    /// # Errors
    /// When `url` is not of that form.
    pub fn new(
        url: &str,
        token: Option<Token>,
        every: Duration,
        dir: &Path,
    ) -> Result<Self, Failure> {
        let base = client::base_url("--heap", url)?;
        Ok(Self {
            agent: client::agent(ANSWER_WITHIN),
            url: format!("{base}/debug/pprof/heap?names=no"),
            token,
            every,
            dir: dir.to_owned(),
        })
    }

    /// Keeps the newest profile until the stop. No answer is no error: the process may be gone.
    pub fn run(&self, stop: &Stop) {
        let mut kept_before = true;
        loop {
            let kept = self.take().and_then(|profile| {
                let written = self.keep(&profile);
                written.map_err(|e| format!("{}: it cannot be written: {e}", self.dir.display()))
            });
            if let Err(why) = &kept
                && kept_before
            {
                log::warn!(why = why.as_str(); "no heap profile; the last one stays");
            }
            kept_before = kept.is_ok();
            if stop.wait(self.every) {
                return;
            }
        }
    }

    /// One profile; `Err` says why there is none.
    fn take(&self) -> Result<Vec<u8>, String> {
        let mut request = self.agent.get(&self.url);
        if let Some(token) = &self.token {
            request = request.header("Authorization", token.bearer());
        }
        let mut answer = request.call().map_err(|e| format!("{}: {e}", self.url))?;
        let body = answer.body_mut().with_config().limit(PROFILE_BYTES_MAX).read_to_vec();
        let body = body.map_err(|e| format!("{}: {e}", self.url))?;
        match answer.status().as_u16() {
            200 if is_whole(&body) => Ok(body),
            200 => Err(format!("{} answered something that is no profile", self.url)),
            status => Err(format!("{} answered {status}: {}", self.url, said(&body))),
        }
    }

    /// Written beside and renamed, so that a reader finds the old one or the new one.
    fn keep(&self, profile: &[u8]) -> io::Result<()> {
        let beside = self.dir.join("heap-last.pb.gz.part");
        std::fs::write(&beside, profile)?;
        let first = self.dir.join(FIRST);
        if !first.exists() {
            std::fs::copy(&beside, first)?;
        }
        std::fs::rename(beside, self.dir.join(LAST))
    }
}

/// Whether a gzip stream can be read to its checksum.
fn is_whole(gzipped: &[u8]) -> bool {
    let mut text = GzDecoder::new(gzipped).take(PROFILE_BYTES_MAX * 16);
    io::copy(&mut text, &mut io::sink()).is_ok_and(|bytes| bytes > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::Compression;
    use flate2::read::GzEncoder;

    #[test]
    fn a_profile_that_was_cut_short_is_none() {
        let mut whole = Vec::new();
        let mut encoder = GzEncoder::new([7u8; 1000].as_slice(), Compression::fast());
        encoder.read_to_end(&mut whole).expect("compressed");
        assert!(is_whole(&whole));
        for cut in 0..whole.len() {
            assert!(!is_whole(whole.get(..cut).expect("shorter")), "{cut} of {}", whole.len());
        }
    }

    #[test]
    fn the_first_stays_and_the_last_is_replaced() {
        let dir = tempfile::tempdir().expect("dir");
        let every = Duration::from_secs(1);
        let keeper = Keeper::new("http://127.0.0.1:1", None, every, dir.path()).expect("keeper");
        for profile in ["a", "b", "c"] {
            keeper.keep(profile.as_bytes()).expect("kept");
        }
        let text = |name: &str| std::fs::read_to_string(dir.path().join(name)).expect(name);
        assert_eq!((text(FIRST).as_str(), text(LAST).as_str()), ("a", "c"));
        assert_eq!(std::fs::read_dir(dir.path()).expect("dir").count(), 2, "nothing beside them");
    }
}
