//! MurmurHash64A (Appleby), which Envoy offers for its ring under the name MURMUR_HASH_2.

const MULTIPLIER: u64 = 0xc6a4_a793_5bd1_e995;
/// The seed of libstdc++'s `std::hash`, which Envoy takes.
const SEED: u64 = 0xc70f_6907;

/// The hash of `bytes` as Envoy has it.
pub(super) fn murmur2(bytes: &[u8]) -> u64 {
    let scramble = |word: u64| shift_mix(word.wrapping_mul(MULTIPLIER)).wrapping_mul(MULTIPLIER);
    let mut hash = SEED ^ (bytes.len() as u64).wrapping_mul(MULTIPLIER);
    let mut words = bytes.chunks_exact(8);
    for word in &mut words {
        hash = (hash ^ scramble(little_endian(word))).wrapping_mul(MULTIPLIER);
    }
    let rest = words.remainder();
    if !rest.is_empty() {
        hash = (hash ^ little_endian(rest)).wrapping_mul(MULTIPLIER);
    }
    shift_mix(shift_mix(hash).wrapping_mul(MULTIPLIER))
}

fn shift_mix(word: u64) -> u64 {
    word ^ (word >> 47)
}

fn little_endian(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Envoy's `test/common/common/hash_test.cc`, `Hash.murmurHash2`.
    #[test]
    fn murmur_is_that_of_envoy() {
        let published = [
            ("foo", 9_631_199_822_919_835_226),
            ("bar", 11_474_628_671_133_349_555),
            ("foo\nbar", 16_306_510_975_912_980_159),
            ("lyft", 12_847_078_931_730_529_320),
            ("", 6_142_509_188_972_423_790),
        ];
        for (text, hash) in published {
            assert_eq!(murmur2(text.as_bytes()), hash, "{text:?}");
        }
    }
}
