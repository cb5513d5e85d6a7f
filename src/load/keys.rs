//! Which key an event has and which partition a key has.
//!
//! Invariant: both are pure functions, of (seed, id) and of (key, partitions): the same seed sends
//! the same keys to the same partitions on every run. Crate `kafka` would hash keys with XxHash32;
//! here murmur2 chooses the partition, as in the Java client and franz-go, so that all clients
//! agree on a key's partition.

use rand_distr::{Distribution, Zipf};
use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::Rng;

/// Draws keys `0..keys`: uniformly, or with Zipf's law, where key 0 is the most frequent.
#[derive(Debug, Clone, Copy)]
pub struct Keys {
    keys: u64,
    zipf: Option<Zipf<f64>>,
}

impl Keys {
    /// Keys `0..keys` with Zipf exponent `skew`; 0 is uniform. `Err` says what was expected.
    pub fn new(keys: u64, skew: f64) -> Result<Self, String> {
        if keys == 0 {
            return Err("expected at least one key".into());
        }
        let zipf = if skew == 0.0 {
            None
        } else {
            let zipf = Zipf::new(keys as f64, skew);
            Some(zipf.map_err(|e| format!("expected a Zipf exponent of at least 0 ({e})"))?)
        };
        Ok(Self { keys, zipf })
    }

    /// The key of the event whose stream this is; the first draw from it.
    pub fn draw(&self, stream: &mut Xoshiro256PlusPlus) -> u64 {
        match &self.zipf {
            // Ranks are 1..=keys.
            Some(zipf) => (zipf.sample(stream) as u64).clamp(1, self.keys) - 1,
            // The high half of a widening product: within keys / 2^64 of uniform.
            None => ((u128::from(stream.next_u64()) * u128::from(self.keys)) >> 64) as u64,
        }
    }
}

/// The partition, `0..partitions`, where the Java client's default partitioner puts `key`.
pub fn partition(key: u64, partitions: u32) -> u32 {
    (murmur2(&key.to_be_bytes()) & 0x7fff_ffff) % partitions
}

/// Murmur2 as `org.apache.kafka.common.utils.Utils.murmur2` has it.
fn murmur2(bytes: &[u8]) -> u32 {
    const SEED: u32 = 0x9747_b28c;
    const M: u32 = 0x5bd1_e995;
    let (words, tail) = bytes.as_chunks::<4>();
    let mut h = SEED ^ bytes.len() as u32;
    for word in words {
        let mut k = u32::from_le_bytes(*word).wrapping_mul(M);
        k ^= k >> 24;
        h = h.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    if !tail.is_empty() {
        let tail = tail.iter().rev().fold(0, |word, byte| word << 8 | u32::from(*byte));
        h = (h ^ tail).wrapping_mul(M);
    }
    h ^= h >> 13;
    h = h.wrapping_mul(M);
    h ^ h >> 15
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event;

    #[test]
    fn murmur2_is_the_java_clients() {
        // From Kafka's own UtilsTest: every length of tail, and a key that spans words.
        for (text, hash) in [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            ("abc", 479_470_107),
        ] {
            assert_eq!(murmur2(text.as_bytes()).cast_signed(), hash, "{text}");
        }
    }

    fn counts(keys: u64, skew: f64, draws: u64) -> Vec<u64> {
        let keys = Keys::new(keys, skew).expect("valid");
        let mut counts = vec![0; keys.keys as usize];
        for id in 0..draws {
            counts[keys.draw(&mut event::stream(7, id)) as usize] += 1;
        }
        counts
    }

    #[test]
    fn uniform_keys_are_uniform() {
        // 10,000 draws a key: sigma is 100, so 6 sigma is 6 %; fixed seed, so it cannot flake.
        for (key, &n) in counts(10, 0.0, 100_000).iter().enumerate() {
            assert!((9_400..=10_600).contains(&n), "key {key}: {n}");
        }
    }

    #[test]
    fn skewed_keys_follow_zipfs_law() {
        let counts = counts(1000, 1.0, 200_000);
        // Exponent 1: key k is k + 1 times rarer than key 0; H(1000) = 7.485.
        let expected = |key: f64| 200_000.0 / 7.485 / (key + 1.0);
        for key in [0, 1, 9] {
            let ratio = counts[key] as f64 / expected(key as f64);
            assert!((0.95..1.05).contains(&ratio), "key {key}: {ratio}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        assert!(Keys::new(0, 0.0).is_err());
        for skew in [-1.0, f64::NAN] {
            assert!(Keys::new(1, skew).is_err(), "{skew}");
        }
    }

    #[test]
    fn every_partition_is_used_and_none_is_out_of_range() {
        let mut seen = [0; 12];
        (0..10_000).for_each(|key| seen[partition(key, 12) as usize] += 1);
        assert!(seen.iter().all(|&n| n > 500), "{seen:?}");
    }
}
