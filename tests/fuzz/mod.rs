//! Hostile bytes for all code that reads bytes from elsewhere. A target here is a property of any
//! input, not only "it does not panic".
//!
//! `cargo test` replays each target's seeds (`__fuzz__/TARGET/corpus`, and inputs that once broke
//! it in `crashes`), then random bytes and changed seeds, a second at most. `run/fuzz.sh` runs the
//! same targets for any time under libFuzzer, which follows the code that an input reaches. It is
//! part of the library's unit tests: an integration test would link every binary too, and those
//! have no libFuzzer for the instrumented code to report to.

#![allow(clippy::expect_used, clippy::indexing_slicing, reason = "a panic is how a test fails")]

use std::time::{Duration, Instant};

use crate::brokers::fetch_answer;
use crate::chaos;
use crate::cli::normalise;
use crate::event::{EVENT_BYTES_MAX, Event, HEADER_BYTES};
use crate::http::client::value;
use crate::http::{Limits, head};
use crate::lab::{audit, scrape};
use crate::load::leases::Lease;
use crate::load::rate::{LEASE_MAX, RateLease};
use crate::load::schedule::{Pacer, Schedule};
use crate::logging::SAID_CHARS_MAX;
use crate::records::{self, Builder, Codec, ProducerStamp, Scratch, batches, parse_header};
use crate::sink::bucket::{Bucket, Due};
use crate::sink::control::{Command, Control, Costs, FAULT_MAX, Status};
use crate::sink::fate::{NotNow, Posted, RETRY_AFTER_MAX, retry_after, says_when, understood};
use crate::sink::quota;
use crate::sink::wire::{BadFrame, FRAME_HEADER_BYTES, View, unframe};
use crate::transform::Transform;

mod mutate;

/// Highest rate that any control takes, events/s.
const RATE_MAX: f64 = 1e9;

/// A test whose name is the target's and its folder's.
macro_rules! targets {
    ($($target:ident)*) => {$(
        #[test]
        fn $target() {
            // libFuzzer changes seeds by itself, better, and never comes back.
            if std::env::var_os("BOLERO_LIBFUZZER_ARGS").is_none() {
                let seeds = mutate::Seeds::of(stringify!($target));
                bolero::check!(name = "changed_seeds")
                    .with_iterations(20_000)
                    .with_test_time(Duration::from_millis(600))
                    .with_generator(seeds)
                    .for_each(|bytes: &Vec<u8>| property::$target(bytes));
            }
            bolero::check!(name = stringify!($target))
                .with_iterations(5_000)
                .with_test_time(Duration::from_millis(300))
                .for_each(|bytes: &[u8]| property::$target(bytes));
        }
    )*};
}

targets! {
    event batch sink_control rate_lease flags metrics_page http_head batch_header record_batches
    fetch_answer answer
}

mod property {
    use super::*;

    /// Bytes are an event exactly when their length is an event's, and then the event is those
    /// bytes and no others.
    pub fn event(bytes: &[u8]) {
        let decoded = Event::decode(bytes);
        let fits = (HEADER_BYTES..=EVENT_BYTES_MAX).contains(&bytes.len());
        assert_eq!(decoded.is_ok(), fits, "{} bytes", bytes.len());
        let Ok(event) = decoded else { return };
        let mut again = Vec::new();
        event.encode(&mut again);
        assert_eq!(again, bytes);
        assert_eq!(again.len(), event.encoded_len());
        assert_eq!(Event::decode(&again), Ok(event));
    }

    /// A body is a batch in one way only, no byte of it left over, none missing; and its memory
    /// depends on the bytes that have arrived, not on an announced size.
    pub fn batch(body: &[u8]) {
        for (_, transform) in Transform::ALL {
            batch_of(body, transform);
        }
    }

    fn batch_of(body: &[u8], transform: Transform) {
        let events = match unframe(body, transform) {
            Ok(events) => events,
            Err(BadFrame::Empty) => return assert!(body.is_empty()),
            Err(BadFrame::Truncated { left, needed, .. }) => return assert!(left < needed),
            Err(BadFrame::Event { .. }) => return,
        };
        let lengths = events.iter().map(|e| HEADER_BYTES + e.payload.len() + e.trailer.len());
        assert_eq!(lengths.clone().map(|len| FRAME_HEADER_BYTES + len).sum::<usize>(), body.len());
        // Each event is its own bytes: its payload and trailer end where the next one begins.
        let mut at = 0;
        for (event, len) in events.iter().zip(lengths) {
            let bytes = &body[at + FRAME_HEADER_BYTES..][..len];
            assert_eq!(View::read(bytes, transform), Ok(*event));
            let whole = Event::decode(bytes).expect("an event, the trailer taken for payload");
            assert_eq!((event.id, event.key, event.ts_us), (whole.id, whole.key, whole.ts_us));
            assert_eq!([event.payload, event.trailer].concat(), *whole.payload);
            assert_eq!(event.trailer.len(), transform.trailer_bytes());
            at += FRAME_HEADER_BYTES + len;
        }
        // A growing `Vec` is at most twice as long as it must be, and starts with four.
        let most = (2 * body.len() / (FRAME_HEADER_BYTES + HEADER_BYTES)).max(4);
        assert!(events.capacity() <= most, "{} for {} B", events.capacity(), body.len());
        let mut longer = body.to_vec();
        longer.push(0);
        assert!(unframe(&longer, transform).is_err(), "a trailing byte is read over");
        let last = events.last().map_or(0, |e| HEADER_BYTES + e.payload.len() + e.trailer.len());
        for cut in [1, last, last + 1, last + FRAME_HEADER_BYTES - 1] {
            let kept = &body[..body.len() - cut];
            assert!(unframe(kept, transform).is_err(), "{cut} bytes short");
        }
    }

    /// Commands, one a line, a second apart. An accepted command leaves a finite rate that ends,
    /// and a bucket that works; a refused one changes nothing.
    pub fn sink_control(bytes: &[u8]) {
        let mut now = Instant::now();
        let mut control = Control::new(2_000.0, None);
        let mut bucket = Bucket::new(control.rate(), None, now);
        for line in bytes.split(|byte| *byte == b'\n') {
            now += Duration::from_secs(1);
            while let Some(change) = control.advance(now) {
                bucket.set_rate(change.rate, change.at);
            }
            let Ok(command) = serde_json::from_slice::<Command>(line) else { continue };
            let before = control.status(now, Costs::default(), 0);
            match control.apply(&command, now) {
                Ok(change) => {
                    assert!((0.0..=RATE_MAX).contains(&change.rate), "{command:?}: {change:?}");
                    bucket.set_rate(change.rate, change.at);
                }
                Err(_) => {
                    assert_eq!(control.status(now, Costs::default(), 0), before, "{command:?}")
                }
            }
            assert!(control.next_change().is_none_or(|end| now < end && end <= now + FAULT_MAX));
            assert!(control.status(now, Costs::default(), 0).base_rate > 0.0);
            let place = bucket.claim(1.0, now);
            if let Due::At(at) = bucket.due(place, now) {
                assert!(at > now, "{command:?}");
            }
            if !matches!(command, Command::Rate { .. } | Command::Stall { .. }) {
                let text = serde_json::to_string(&command).expect("it came as JSON");
                assert_eq!(serde_json::from_str::<Command>(&text).expect(&text), command);
            }
        }
        while control.advance(now + FAULT_MAX).is_some() {}
        let status = control.status(now + FAULT_MAX, Costs::default(), 0);
        assert_eq!((status.rate, status.fault), (status.base_rate, None));
    }

    /// Leases, one a line, each granted when a third of the last one has passed. None may raise the
    /// rate, make an event due again, or outlast its time; a lease that is alone is never exceeded.
    pub fn rate_lease(bytes: &[u8]) {
        const RATE: f64 = 2_000.0;
        let mut now_us = 1_700_000_000_000_000;
        let mut pacer = Pacer::new(Schedule::constant(RATE), now_us);
        let (mut due, mut longest_us, mut holders) = (0, 0, std::collections::BTreeSet::new());
        for line in bytes.split(|byte| *byte == b'\n') {
            let lease = serde_json::from_slice::<RateLease>(line).map_err(|e| e.to_string());
            let Ok(lease) = lease.and_then(RateLease::check) else { continue };
            assert!((0.0..=RATE_MAX).contains(&lease.rate), "{lease:?}");
            let time = Duration::from_millis(lease.lease_ms);
            assert!(!time.is_zero() && time <= LEASE_MAX, "{lease:?}");
            let time_us = i64::try_from(time.as_micros()).expect("ten minutes");
            let (expires_us, follows) = (now_us + time_us, lease.follows);
            let granted = Lease { rate: lease.rate, expires_us, follows };
            if pacer.grant(&lease.holder, granted, now_us, due).is_err() {
                return;
            }
            holders.insert(lease.holder.clone());
            longest_us = longest_us.max(expires_us);
            let least = if holders.len() == 1 && !follows { RATE.min(lease.rate) } else { RATE };
            assert!(pacer.rate(now_us) <= least, "{lease:?}");
            assert_eq!(pacer.rate(longest_us), RATE, "{lease:?}");
            let passed_us = 1 + time_us / 3;
            now_us += passed_us;
            let then = pacer.curve().due_count(now_us);
            let most = least * passed_us as f64 / 1e6 + 1.0;
            assert!(then >= due && (then - due) as f64 <= most, "{lease:?}: {due} to {then}");
            due = then;
        }
    }

    /// Words, one a line. No letter of them is lost, words after `--` are left alone, and any
    /// spelling of a flag becomes the same two words.
    pub fn flags(bytes: &[u8]) {
        let text = String::from_utf8_lossy(bytes);
        let words: Vec<String> = text.split('\n').map(str::to_owned).collect();
        let once = normalise(words.clone());
        let letters = |words: &[String]| words.concat().replace(['-', '='], "");
        assert_eq!(letters(&once), letters(&words));
        let end = words.iter().position(|word| word == "--").unwrap_or(words.len());
        let verbatim = &words[end..];
        assert!(once.ends_with(verbatim), "{once:?}");
        let split = once.len() - words.len();
        let with_value = words[..end].iter().filter(|word| word.contains('=')).count();
        assert!(split <= with_value, "{once:?}");
        // Without values that look like flags themselves, twice is once.
        if split == 0 {
            assert_eq!(normalise(once.clone()), once);
        }
        let name: String = words[0].chars().filter(char::is_ascii_alphanumeric).collect();
        let name = format!("f{name}x");
        let value = words.last().map(String::as_str).unwrap_or_default();
        for dashes in ["-", "--"] {
            let word = format!("{dashes}{name}={value}");
            assert_eq!(normalise([word]), [format!("--{name}"), value.to_owned()]);
        }
    }

    /// Every number read is finite and from a line of its own; written out under its key it is
    /// read again as it was.
    pub fn metrics_page(bytes: &[u8]) {
        let text = String::from_utf8_lossy(bytes);
        let Ok(numbers) = scrape::numbers(&text) else { return };
        assert!(numbers.values().all(|value| value.is_finite()), "{numbers:?}");
        assert!(numbers.len() <= text.lines().count().min(scrape::SERIES_MAX));
        let written: String =
            numbers.iter().map(|(key, value)| format!("{key} {value}\n")).collect();
        assert_eq!(scrape::numbers(&written), Ok(numbers), "{written:?}");
    }

    /// An accepted head has lengths within the limits, is the same whatever follows it, is waited
    /// for at every cut, and is forwarded in a form that parses to the same head.
    pub fn http_head(bytes: &[u8]) {
        let limits = Limits { head_bytes_max: 512, body_bytes_max: 1_000, ..Limits::default() };
        let mut forward = Vec::new();
        let head = match head::parse(bytes, &limits, &mut forward) {
            Ok(Some(head)) => head,
            Ok(None) => return assert!(bytes.len() < limits.head_bytes_max),
            Err(refusal) => {
                assert!([400, 411, 413, 417, 431, 501, 505].contains(&refusal.status));
                let answer = String::from_utf8(refusal.answer(false, false)).expect("text");
                assert_eq!(answer.matches("\r\n\r\n").count(), 1, "{answer}");
                return;
            }
        };
        assert!(head.len <= bytes.len().min(limits.head_bytes_max), "{head:?}");
        assert!(head.body_len <= limits.body_bytes_max, "{head:?}");
        let read = |bytes: &[u8], limits| {
            let mut forward = Vec::new();
            let head = head::parse(bytes, limits, &mut forward);
            (head, forward)
        };
        let own = &bytes[..head.len];
        let (alone, same) = read(own, &limits);
        assert_eq!((alone.as_ref(), &same), (Ok(&Some(head)), &forward));
        for cut in [own.len() - 1, own.len() / 2, 1] {
            assert_eq!(read(&own[..cut], &limits).0, Ok(None), "{cut} bytes");
        }
        // The forwarded header may have one space more than the original.
        let wider = Limits { head_bytes_max: 4 * limits.head_bytes_max, ..limits };
        let Ok(Some(head)) = alone else { return };
        match read(&forward, &wider) {
            (Ok(Some(again)), same) => {
                assert_eq!(same, forward);
                assert_eq!(again.len, forward.len(), "something follows the head");
                // The body is not forwarded with it.
                assert_eq!((again.body_len, again.is_head), (0, head.is_head));
            }
            // HTTP/1.0 may have no host; it is forwarded as 1.1 to a server that accepts that.
            (Err(refusal), _) if head.http_1_0 => assert!(refusal.why.contains("Host")),
            other => panic!("{other:?} from {:?}", String::from_utf8_lossy(&forward)),
        }
    }

    /// An accepted header gives a next position that is higher, and a size to fetch.
    pub fn batch_header(bytes: &[u8]) {
        let Ok(batch) = parse_header(bytes) else { return };
        assert!(0 <= batch.base_offset && batch.base_offset <= batch.last_offset, "{batch:?}");
        assert!(batch.last_offset < i64::MAX, "{batch:?}");
        assert!(batch.size >= 61 && batch.size <= 12 + i32::MAX as usize, "{batch:?}");
        assert!(batch.codec < 8 && bytes[16] == 2);
        assert!(batch.records >= 0, "{batch:?}");
        assert_eq!(parse_header(&bytes[..61]).ok(), Some(batch), "what follows is not the header");
    }

    /// A fetched set, unchanged, and with the sums of its batches corrected: else no changed byte
    /// would pass them.
    pub fn record_batches(bytes: &[u8]) {
        const SUM_AT: usize = 17;
        const SUM_COVERS_FROM: usize = 21;
        read_set(bytes);
        let mut set = bytes.to_vec();
        let mut rest = &mut set[..];
        while let Ok(header) = records::parse_header(rest) {
            let Some((batch, behind)) = rest.split_at_mut_checked(header.size) else { break };
            let sum = crc32c::crc32c(&batch[SUM_COVERS_FROM..]);
            batch[SUM_AT..SUM_COVERS_FROM].copy_from_slice(&sum.to_be_bytes());
            rest = behind;
        }
        read_set(&set);
    }

    /// Batches follow each other without a byte between them. Records have ascending offsets inside
    /// their header's range, all that are announced or an error; no more is unpacked than the
    /// limit; and built again they are the same records.
    fn read_set(set: &[u8]) {
        const UNPACKED_BYTES_MAX: usize = 64 << 10;
        let mut scratch = Scratch::new(UNPACKED_BYTES_MAX);
        let (mut rest, mut builder) = (set, Builder::new());
        let mut all = batches(set);
        for batch in all.by_ref().map_while(Result::ok) {
            let header = batch.header;
            assert_eq!(records::parse_header(rest), Ok(header));
            rest = &rest[header.size..];
            builder.clear();
            let (mut next, mut count, mut field_bytes, mut failed) =
                (header.base_offset, 0, 0, false);
            let Ok(mut read) = batch.records(&mut scratch) else { continue };
            for record in read.by_ref() {
                assert!(!failed, "it goes on after an error");
                let Ok(record) = record else {
                    failed = true;
                    continue;
                };
                assert!((next..=header.last_offset).contains(&record.offset), "{record:?}");
                (next, count) = (record.offset + 1, count + 1);
                for field in [record.key, record.value].into_iter().flatten() {
                    field_bytes += field.len();
                }
                builder.push(record.timestamp_ms, record.key, record.value).expect("room");
            }
            assert!(read.next().is_none());
            assert!(
                count == header.records || failed && count < header.records,
                "{count}: {header:?}"
            );
            let is_plain = header.codec == Codec::None.bits();
            assert!(field_bytes <= if is_plain { header.size } else { UNPACKED_BYTES_MAX });
            assert!(batch.control(&mut scratch).is_err() || header.is_control && !failed);
            if !failed {
                same_again(&batch, &mut scratch, &mut builder)
            }
        }
        assert!(all.next().is_none());
        assert!(scratch.kept_bytes() <= UNPACKED_BYTES_MAX, "{}", scratch.kept_bytes());
        // The rest is a cut batch, or empty.
        assert!(records::parse_header(rest).map_or(true, |header| header.size > rest.len()));
    }

    /// `builder` holds the same records as `batch`, except for offsets.
    fn same_again(batch: &records::Batch<'_>, scratch: &mut Scratch, builder: &mut Builder) {
        let again = builder.finish(Codec::None, ProducerStamp::NONE).expect("nothing to pack");
        let Some(again) = batches(again).next() else { return assert_eq!(batch.header.records, 0) };
        let (again, mut plain) = (again.expect("a good header"), Scratch::new(0));
        let mut again = again.records(&mut plain).expect("a good sum");
        for record in batch.records(scratch).expect("it was read") {
            let (record, same) = (record.expect("it was read"), again.next().expect("no fewer"));
            let fields = |r: records::Record<'_>| {
                (r.timestamp_ms, r.key.map(<[u8]>::to_vec), r.value.map(<[u8]>::to_vec))
            };
            assert_eq!(fields(record), fields(same.expect("a record")));
        }
        assert!(again.next().is_none());
    }

    /// The answer to a fetch: its version is in the first byte. No more is read than is there,
    /// records are inside it, and a cut answer is refused or was cut in the last tags.
    pub fn fetch_answer(bytes: &[u8]) {
        let Some((version, answer)) = bytes.split_first() else { return };
        let version = i16::from(*version % 20);
        let Ok(read) = fetch_answer::read(answer, version) else { return };
        assert!((fetch_answer::VERSION_MIN..=fetch_answer::VERSION_MAX).contains(&version));
        let mut last = 0;
        for part in &read.partitions {
            assert!(last <= part.records.start && part.records.end <= answer.len(), "{part:?}");
            last = part.records.end;
            assert!(part.aborted.len() <= answer.len() / 16, "{part:?}");
            for batch in batches(&answer[part.records.clone()]) {
                let Ok(batch) = batch else { break };
                assert!(batch.header.size <= part.records.len());
            }
        }
        assert!(read.partitions.len() <= answer.len() / 20, "{} partitions", read.partitions.len());
        let mut longer = answer.to_vec();
        longer.push(0);
        assert_eq!(
            fetch_answer::read(&longer, version),
            Ok(read),
            "what follows is not the answer"
        );
    }

    /// An answer of a sink, or of another server in its place: `STATUS NUMBER` on the first line,
    /// the number being its `Retry-After` and how many ids it counts; the body follows. No more is
    /// acked than was sent, a temporary refusal gives up no event, no wait is longer than a minute,
    /// a message repeats little of it, and its count is that of its list.
    pub fn answer(bytes: &[u8]) {
        const SENT: usize = 200;
        let short = |why: &str| {
            assert!(why.chars().count() < SAID_CHARS_MAX + 100, "{why}");
        };
        let mut parts = bytes.splitn(2, |byte| *byte == b'\n');
        let (line, body) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let line = String::from_utf8_lossy(line);
        let (status, number) = line.split_once(' ').unwrap_or((&*line, ""));
        let status = status.parse::<u16>().unwrap_or(200);
        let mut headers = ureq::http::HeaderMap::new();
        if let Ok(number) = number.parse::<ureq::http::HeaderValue>() {
            headers.insert("retry-after", number);
        }
        // The same text as a limit: no rate that is no number.
        if let Ok(limit) = line.parse::<ureq::http::HeaderValue>() {
            headers.insert(quota::POLICY, limit);
        }
        let rate = quota::read(&headers).policy.map(|policy| policy.rate);
        assert!(rate.is_none_or(|rate| rate.is_finite() && rate >= 0.0), "{rate:?}");
        let after = retry_after(&headers, std::time::SystemTime::UNIX_EPOCH);
        assert!(after.is_none_or(|wait| wait <= RETRY_AFTER_MAX), "{after:?}");
        let says_when = says_when(&headers);
        match understood("http://sink", status, (says_when, after), body, SENT) {
            Posted::Acked(acked) => {
                assert!((200..300).contains(&status) && acked <= SENT, "{acked} at {status}");
            }
            Posted::Refused { status: given, why } => {
                assert!(given == status && ![408, 425, 429, 500, 502, 503, 504].contains(&given));
                assert!(why.chars().count() < 3 * SAID_CHARS_MAX, "{why}");
            }
            Posted::NotNow(NotNow { after: wait, why, .. }) => {
                assert!(![400, 401, 404, 422].contains(&status) && wait == after);
                assert!(status != 413 || says_when);
                short(&why);
            }
        }
        match value::<Status>("http://sink".to_owned(), status, body) {
            Ok(told) => {
                let line = chaos::describe(&told);
                assert!(status == 200 && !line.contains(char::is_control), "{line:?}");
            }
            Err(why) => short(&why.to_string()),
        }
        if let Err(why) = audit::Totals::read(body) {
            short(&why);
        }
        let counted = number.parse::<u64>().unwrap_or(0);
        match audit::read_ids(body, counted) {
            Ok(ids) => {
                assert_eq!(ids.len(), counted);
                let mut again = Vec::new();
                ids.serialize_into(&mut again).expect("a Vec takes all");
                assert_eq!(audit::read_ids(&again, counted), Ok(ids));
            }
            Err(why) => short(&why),
        }
    }
}
