//! The endpoints that every binary serves: `/metrics`, `/healthz`, `/readyz` and `/debug/pprof/`.
//!
//! Profiles show what the process does and cost it something, so they go through [`Access`]; the
//! others are open to every client that can connect.

use std::time::Duration;

use super::metrics::Metrics;
use super::profile::{self, Names, ProfileError};
use super::tasks;
use crate::http::{Access, Request, Response};

/// Seconds of a CPU profile without `?seconds=`.
const CPU_SECONDS_DEFAULT: u64 = 30;
const CPU_SECONDS_MAX: u64 = 600;

/// Whether a program is alive, and whether it is ready: the liveness and the readiness probe of
/// Kubernetes.
pub trait Health: Send + Sync + 'static {
    /// `Err` says what stands still: only a restart may help.
    fn lives(&self) -> Result<(), String>;
    /// `Err` says what it waits for.
    fn takes_events(&self) -> Result<(), String>;
}

/// A program that is alive and ready as long as it answers.
pub struct Answers;

impl Health for Answers {
    fn lives(&self) -> Result<(), String> {
        Ok(())
    }

    fn takes_events(&self) -> Result<(), String> {
        Ok(())
    }
}

/// The instruments' part of a binary's handler: `None` for a path that is not theirs.
pub fn endpoint(
    metrics: Metrics,
    access: Access,
    health: impl Health,
) -> impl Fn(&Request) -> Option<Response> + Send + Sync {
    move |request| {
        let path = request.path.as_str();
        let profiles = path.starts_with("/debug/pprof");
        if !profiles && !matches!(path, "/metrics" | "/healthz" | "/readyz") {
            return None;
        }
        if path != NAMES && request.method != "GET" {
            return Some(
                Response::text(405, "only GET and HEAD").with_header("Allow", "GET, HEAD"),
            );
        }
        if profiles && let Err(refusal) = access.check(request) {
            return Some(refusal);
        }
        Some(match path {
            "/metrics" => text_of(&metrics),
            "/healthz" => probe(health.lives()),
            "/readyz" => probe(health.lives().and_then(|()| health.takes_events())),
            "/debug/pprof/" => Response::bytes(200, "text/html; charset=utf-8", INDEX.into()),
            "/debug/pprof" => {
                Response::text(301, "/debug/pprof/").with_header("Location", "pprof/")
            }
            "/debug/pprof/heap" => profile_of("heap.pb.gz", profile::heap(names(&request.query))),
            "/debug/pprof/profile" => match seconds(&request.query) {
                Ok(time) => profile_of("cpu.pb.gz", profile::cpu(time, names(&request.query))),
                Err(why) => Response::text(400, why),
            },
            NAMES => Response::text(200, "num_symbols: 0"),
            "/debug/pprof/threads" => match tasks::table() {
                Ok(table) => Response::bytes(200, TEXT, table.into_bytes()),
                Err(e) => Response::text(500, format_args!("cannot list the threads: {e}")),
            },
            _ => Response::text(404, format_args!("no {path}; see /debug/pprof/")),
        })
    }
}

/// Where `go tool pprof` asks, by POST, for names that the profile lacks (libc's, the vdso's). On
/// an error it drops the profile; on an answer without names it goes on without them.
const NAMES: &str = "/debug/pprof/symbol";

const TEXT: &str = "text/plain; charset=utf-8";

fn probe(found: Result<(), String>) -> Response {
    match found {
        Ok(()) => Response::text(200, "ok"),
        Err(why) => Response::text(503, why),
    }
}

fn text_of(metrics: &Metrics) -> Response {
    match metrics.text() {
        Ok(text) => Response::bytes(200, "text/plain; version=0.0.4; charset=utf-8", text),
        Err(failure) => Response::text(500, failure),
    }
}

fn profile_of(file: &str, profile: Result<Vec<u8>, ProfileError>) -> Response {
    match profile {
        Ok(bytes) => Response::bytes(200, "application/octet-stream", bytes)
            .with_header("Content-Disposition", format!("attachment; filename=\"{file}\"")),
        Err(e @ ProfileError::Busy) => Response::text(409, e),
        Err(e @ (ProfileError::Off | ProfileError::Failed(_))) => Response::text(500, e),
    }
}

fn names(query: &str) -> Names {
    if query.split('&').any(|pair| pair == "names=no") { Names::Reader } else { Names::Here }
}

/// The time that `seconds=N` asks for.
fn seconds(query: &str) -> Result<Duration, String> {
    let asked = query.split('&').find_map(|pair| pair.strip_prefix("seconds="));
    let seconds = match asked {
        None => CPU_SECONDS_DEFAULT,
        Some(text) => text
            .parse()
            .ok()
            .filter(|seconds| (1..=CPU_SECONDS_MAX).contains(seconds))
            .ok_or_else(|| format!("seconds={text}: expected 1 to {CPU_SECONDS_MAX}"))?,
    };
    Ok(Duration::from_secs(seconds))
}

const INDEX: &str = "\
<!DOCTYPE html>
<html lang=en>
<meta charset=utf-8>
<title>Profiles</title>
<h1>Profiles</h1>
<p>Give the address of a profile to <code>go tool pprof</code> on the machine that has the binary:
<pre>go tool pprof -top http://HOST:PORT/debug/pprof/heap</pre>
<dl>
<dt><a href=heap>heap</a><dd>bytes in use by call site, sampled by jemalloc every 512 KiB
<dt><a href=profile?seconds=10>profile?seconds=10</a><dd>CPU time by call site, 99 samples a second
<dt><a href=threads>threads</a><dd>name, state, CPU seconds and what each waits in
</dl>
<p>Functions are named from the symbol table. With <code>?names=no</code> the reader names them:
<code>pprof</code> of github.com/google/pprof knows lines and inlined functions as well.
<p><a href=/metrics>/metrics</a> <a href=/healthz>/healthz</a> <a href=/readyz>/readyz</a>
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_bounded() {
        assert_eq!(seconds(""), Ok(Duration::from_secs(CPU_SECONDS_DEFAULT)));
        assert_eq!(seconds("a=b&seconds=600"), Ok(Duration::from_secs(600)));
        for bad in ["seconds=0", "seconds=601", "seconds=-1", "seconds=", "seconds=1.5"] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
    }
}
