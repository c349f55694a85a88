//! How the bytes of a key become the number that a policy looks up.

use xxhash_rust::xxh64::{Xxh64, xxh64};

/// The hash of a request's key. Each policy states the one it needs, and keys that are paired with
/// it are read by that; a closure of one's own calls [`hash`](Self::hash).
///
/// ```
/// use evenkeel::policy::KeyHash;
/// assert_eq!(KeyHash::XxHash64.hash(b""), 0xef46_db37_51d8_e999);
/// assert_eq!(KeyHash::Crc32.hash(b"123456789"), 0xcbf4_3926);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum KeyHash {
    /// xxHash64 with seed 0, as in Envoy and gRPC. The default.
    #[default]
    XxHash64,
    /// CRC-32 as in zlib, which nginx hashes keys by.
    Crc32,
    /// The first four bytes of the MD5 digest, the least significant first, as in libmemcached.
    Md5,
}

/// The hash that keys are compared by unless a policy wants another: xxHash64 with seed 0.
///
/// ```
/// assert_eq!(evenkeel::policy::hash_bytes(b""), 0xef46_db37_51d8_e999);
/// ```
pub fn hash_bytes(bytes: &[u8]) -> u64 {
    xxh64(bytes, 0)
}

// === impl KeyHash ===

impl KeyHash {
    /// The hash of `bytes`.
    #[inline]
    pub fn hash(self, bytes: &[u8]) -> u64 {
        match self {
            Self::XxHash64 => hash_bytes(bytes),
            Self::Crc32 => crc32fast::hash(bytes).into(),
            Self::Md5 => first_word(md5::compute(bytes)),
        }
    }

    /// The hash of parts joined by commas, without joining them in memory.
    pub(super) fn hash_joined<'a>(self, mut parts: impl Iterator<Item = &'a [u8]>) -> Option<u64> {
        let first = parts.next()?;
        let Some(second) = parts.next() else { return Some(self.hash(first)) };
        let rest = std::iter::once(second).chain(parts);
        let pieces = std::iter::once(first).chain(rest.flat_map(|part| [&b","[..], part]));
        Some(match self {
            Self::XxHash64 => {
                let mut hasher = Xxh64::new(0);
                pieces.for_each(|piece| hasher.update(piece));
                hasher.digest()
            }
            Self::Crc32 => {
                let mut hasher = crc32fast::Hasher::new();
                pieces.for_each(|piece| hasher.update(piece));
                hasher.finalize().into()
            }
            Self::Md5 => {
                let mut context = md5::Context::new();
                pieces.for_each(|piece| context.consume(piece));
                first_word(context.finalize())
            }
        })
    }
}

fn first_word(md5::Digest(digest): md5::Digest) -> u64 {
    u32::from_le_bytes([digest[0], digest[1], digest[2], digest[3]]).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Envoy's `test/common/common/hash_test.cc`, `Hash.xxHash`.
    #[test]
    fn xx_hash_is_that_of_envoy() {
        let published = [
            ("foo", 3_728_699_739_546_630_719),
            ("bar", 5_234_164_152_756_840_025),
            ("foo\nbar", 8_917_841_378_505_826_757),
            ("lyft", 4_400_747_396_090_729_504),
            ("", 17_241_709_254_077_376_921),
        ];
        for (text, hash) in published {
            assert_eq!(KeyHash::XxHash64.hash(text.as_bytes()), hash, "{text:?}");
        }
    }

    /// The check value of CRC-32/ISO-HDLC, and the test suite of RFC 1321 (A.5).
    #[test]
    fn crc_and_md5_have_their_published_values() {
        assert_eq!(KeyHash::Crc32.hash(b"123456789"), 0xcbf4_3926);
        assert_eq!(KeyHash::Md5.hash(b""), 0xd98c_1dd4);
        assert_eq!(KeyHash::Md5.hash(b"abc"), 0x9850_0190);
        assert_eq!(KeyHash::Md5.hash(b"message digest"), 0x7d69_6bf9);
    }

    #[test]
    fn parts_are_hashed_as_if_joined_by_commas() {
        for hash in [KeyHash::XxHash64, KeyHash::Crc32, KeyHash::Md5] {
            let of = |parts: &[&'static str]| hash.hash_joined(parts.iter().map(|p| p.as_bytes()));
            assert_eq!(of(&[]), None);
            assert_eq!(of(&["a"]), Some(hash.hash(b"a")));
            assert_eq!(of(&["a", "", "b"]), Some(hash.hash(b"a,,b")));
        }
    }
}
