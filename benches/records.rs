//! Measures the cost of a record between the socket and the queue (CRC-32C, unpacking, iterating),
//! and the cost of building a batch. `cargo bench --bench records`
//!
//! A batch of about 950 KB with values of 536 B; half of their bytes repeat. Times are CPU time of
//! the thread, which is valid on a busy machine too; rates are records a second, and bytes a second
//! for the CRC alone.

#![allow(clippy::unwrap_used, reason = "a panic is how a benchmark fails")]

use std::hint::black_box;
use std::time::Duration;

use backpressure_lab::records::{
    BATCH_HEADER_BYTES, Builder, Codec, ProducerStamp, Scratch, batches,
};
use criterion::measurement::{Measurement, ValueFormatter, WallTime};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use rand::{Rng as _, SeedableRng as _};

/// An event of the lab: 24 B and a payload of 512 B.
const VALUE_BYTES: usize = 536;
/// 950 KB / (536 B and a key of 8 B and some 11 B of fields).
const RECORDS: u64 = 1_710;
/// Timestamp of the first record; 100 share one.
const TIMESTAMP_MS: i64 = 1_700_000_000_000;

/// CPU time of the calling thread.
struct CpuTime;

impl CpuTime {
    fn now() -> Duration {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: it writes to the timespec that it is given, which outlives the call.
        let failed = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
        assert_eq!(failed, 0, "Linux has the clock");
        Duration::new(time.tv_sec.try_into().unwrap(), time.tv_nsec.try_into().unwrap())
    }
}

impl Measurement for CpuTime {
    type Intermediate = Duration;
    type Value = Duration;

    fn start(&self) -> Duration {
        Self::now()
    }

    fn end(&self, start: Duration) -> Duration {
        Self::now() - start
    }

    fn add(&self, one: &Duration, other: &Duration) -> Duration {
        *one + *other
    }

    fn zero(&self) -> Duration {
        Duration::ZERO
    }

    fn to_f64(&self, time: &Duration) -> f64 {
        WallTime.to_f64(time)
    }

    fn formatter(&self) -> &dyn ValueFormatter {
        WallTime.formatter()
    }
}

fn values() -> Vec<Vec<u8>> {
    let mut random = rand_xoshiro::Xoshiro256PlusPlus::seed_from_u64(7);
    let value = |_| {
        let mut value = vec![7; VALUE_BYTES];
        random.fill_bytes(value.split_at_mut(VALUE_BYTES / 2).0);
        value
    };
    (0..RECORDS).map(value).collect()
}

fn fill(builder: &mut Builder, values: &[Vec<u8>]) {
    for (n, value) in (0_i64..).zip(values) {
        let key = n.to_be_bytes();
        builder.push(TIMESTAMP_MS + n / 100, Some(&key), Some(value)).unwrap();
    }
}

fn reading(c: &mut Criterion<CpuTime>) {
    let values = values();
    let mut group = c.benchmark_group("read");
    let mut builder = Builder::new();
    fill(&mut builder, &values);
    for codec in Codec::ALL {
        let set = builder.finish(codec, ProducerStamp::NONE).unwrap().to_vec();
        let mut scratch = Scratch::new(4 << 20);
        group.throughput(Throughput::Elements(RECORDS));
        group.bench_function(BenchmarkId::from_parameter(codec.name()), |b| {
            b.iter(|| {
                let mut bytes = 0;
                for batch in batches(black_box(&set)) {
                    for record in batch.unwrap().records(&mut scratch).unwrap() {
                        bytes += record.unwrap().value.unwrap_or_default().len();
                    }
                }
                assert_eq!(bytes, values.len() * VALUE_BYTES);
            });
        });
    }
    group.finish();
}

fn building(c: &mut Criterion<CpuTime>) {
    let values = values();
    let mut group = c.benchmark_group("build");
    for codec in Codec::ALL {
        let mut builder = Builder::new();
        group.throughput(Throughput::Elements(RECORDS));
        group.bench_function(BenchmarkId::from_parameter(codec.name()), |b| {
            b.iter(|| {
                builder.clear();
                fill(&mut builder, black_box(&values));
                black_box(builder.finish(codec, ProducerStamp::NONE).unwrap().len())
            });
        });
    }
    group.finish();
}

fn sum(c: &mut Criterion<CpuTime>) {
    let mut group = c.benchmark_group("crc32c");
    for bytes in [16_000, 500_000] {
        // At any address, as a batch is in an answer.
        let set = vec![7; BATCH_HEADER_BYTES + bytes];
        group.throughput(Throughput::Bytes(bytes as u64));
        group.bench_function(BenchmarkId::from_parameter(bytes), |b| {
            b.iter(|| crc32c::crc32c(black_box(set.split_at(BATCH_HEADER_BYTES).1)));
        });
    }
    group.finish();
}

criterion_group! {
    name = records;
    config = Criterion::default()
        .with_measurement(CpuTime)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .sample_size(30);
    targets = sum, reading, building
}
criterion_main!(records);
