//! The common parts of the lab's pages: their look, their charts, and the headers that isolate
//! them.
//!
//! Invariant: everything comes from this binary, and a page may load nothing else: its
//! Content-Security-Policy forbids it. No inline script or style; no other page may frame it.

use crate::http::{Request, Response};

/// A file that a browser asks for.
pub struct File {
    /// `/charts.js`
    pub path: &'static str,
    /// Its content type.
    pub kind: &'static str,
    /// All of it.
    pub text: &'static str,
}

impl File {
    /// A page: `head.html`, followed by its own part.
    pub const fn html(path: &'static str, text: &'static str) -> Self {
        Self { path, kind: "text/html; charset=utf-8", text }
    }

    /// A script.
    pub const fn script(path: &'static str, text: &'static str) -> Self {
        Self { path, kind: "text/javascript; charset=utf-8", text }
    }

    const fn style(path: &'static str, text: &'static str) -> Self {
        Self { path, kind: "text/css; charset=utf-8", text }
    }
}

/// Of every page.
pub const SHARED: [File; 4] = [
    File::style("/page.css", include_str!("page.css")),
    File::script("/charts.js", include_str!("charts.js")),
    File::style("/uplot.css", include_str!("uplot/uPlot.min.css")),
    File::script("/uplot.js", include_str!("uplot/uPlot.iife.min.js")),
];

const POLICY: &str = "default-src 'self'; img-src 'self' data:; object-src 'none'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The content type of a page's requests and answers.
pub const JSON: &str = "application/json";

/// Answers a request for one of a page's `own` files or for a shared one; `None` for any other
/// request.
pub fn file(own: &[File], request: &Request) -> Option<Response> {
    let file = own.iter().chain(&SHARED).find(|file| file.path == request.path)?;
    Some(match reads(request) {
        true => Response::bytes(200, file.kind, file.text.into()),
        false => refuse_method(READ),
    })
}

/// The methods that read.
pub const READ: &str = "GET, HEAD";

/// Whether it only reads.
pub fn reads(request: &Request) -> bool {
    request.method == "GET"
}

/// An answer that other pages cannot use in the browser.
pub fn guarded(answer: Response) -> Response {
    answer
        .with_header("Content-Security-Policy", POLICY)
        .with_header("X-Content-Type-Options", "nosniff")
        .with_header("Referrer-Policy", "no-referrer")
        .with_header("Cache-Control", "no-store")
}

/// Refuses anything but JSON: a page from elsewhere can send JSON only after a preflight, which is
/// refused.
///
/// # Errors
/// The refusal.
pub fn only_json(request: &Request) -> Result<(), Response> {
    let kind = request.headers.get("content-type").unwrap_or_default();
    if kind.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case(JSON) {
        return Ok(());
    }
    Err(Response::text(415, format_args!("content type '{kind}': expected {JSON}")))
}

/// Says which methods there are.
pub fn refuse_method(allowed: &'static str) -> Response {
    Response::text(405, format_args!("only {allowed}")).with_header("Allow", allowed)
}
