//! `lab probe`: asks another program's `/healthz` or `/readyz`, for a container's health check.

use std::time::Duration;

use argh::{ArgsInfo, FromArgs};

use crate::failure::Failure;
use crate::http::client;
use crate::logging::said;

const ANSWER_WITHIN: Duration = Duration::from_secs(3);

/// Ask a page such as http://127.0.0.1:9902/readyz; exit 0 when it answers 200 in 3 s, else 1 with
/// its text.
#[derive(Debug, FromArgs, ArgsInfo)]
#[argh(subcommand, name = "probe")]
pub struct Settings {
    /// the page's address
    #[argh(positional, from_str_fn(page))]
    url: String,
}

fn page(text: &str) -> Result<String, String> {
    client::check_page_url(text).map(|()| text.to_owned())
}

/// Asks once.
///
/// # Errors
/// When there is no answer, or it is not 200.
pub fn run(settings: &Settings) -> Result<(), Failure> {
    let url = &settings.url;
    let failed = |why: String| Failure::Failed(format!("{url}: {why}"));
    let mut answer =
        client::agent(ANSWER_WITHIN).get(url).call().map_err(|e| failed(e.to_string()))?;
    if answer.status() == 200 {
        return Ok(());
    }
    let mut words = Vec::new();
    // As much of them as comes.
    let _cut_short = client::read_beginning(answer.body_mut(), &mut words);
    Err(failed(format!("status {}: {}", answer.status().as_u16(), said(&words).trim())))
}
