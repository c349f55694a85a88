//! `grpc-timeout`, as gRPC over HTTP/2 writes it: up to eight digits and a unit.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};

pub(super) const NAME: HeaderName = HeaderName::from_static("grpc-timeout");

/// What eight digits can say.
const MOST: u128 = 99_999_999;

/// The timeout that the headers ask for. What does not parse is no timeout, as with other clients: the
/// channel's own takes its place, if it has one, and else the server gets it as it is.
pub(super) fn of(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(NAME)?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|digit| digit.is_ascii_digit())
    {
        return None;
    }
    let amount: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(amount * 3600),
        "M" => Duration::from_secs(amount * 60),
        "S" => Duration::from_secs(amount),
        "m" => Duration::from_millis(amount),
        "u" => Duration::from_micros(amount),
        "n" => Duration::from_nanos(amount),
        _ => return None,
    })
}

/// The timeout for a header, in the finest unit that can say it.
pub(super) fn value(timeout: Duration) -> HeaderValue {
    let nanos = timeout.as_nanos();
    let in_unit = |(unit, size): (char, u128)| {
        let amount = nanos / size;
        (amount <= MOST).then(|| format!("{amount}{unit}"))
    };
    let text = [('n', 1), ('u', 1_000), ('m', 1_000_000), ('S', 1_000_000_000)]
        .into_iter()
        .find_map(in_unit)
        // Over three years.
        .unwrap_or_else(|| format!("{MOST}S"));
    HeaderValue::try_from(text).expect("digits and a letter are a header's value")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_and_a_unit() {
        let read = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-timeout", http::HeaderValue::from_bytes(text.as_bytes()).unwrap());
            of(&headers)
        };
        assert_eq!(read("2H"), Some(Duration::from_secs(7200)));
        assert_eq!(read("3M"), Some(Duration::from_secs(180)));
        assert_eq!(read("42S"), Some(Duration::from_secs(42)));
        assert_eq!(read("13m"), Some(Duration::from_millis(13)));
        assert_eq!(read("2u"), Some(Duration::from_micros(2)));
        assert_eq!(read("82n"), Some(Duration::from_nanos(82)));
        assert_eq!(read("99999999H"), Some(Duration::from_secs(99_999_999 * 3600)));
        for nonsense in ["", "S", "1", "1s", "123456789S", "-1S", "1.5S", "+1S", "5é"] {
            assert_eq!(read(nonsense), None, "{nonsense:?}");
        }
        assert_eq!(of(&HeaderMap::new()), None);
    }

    #[test]
    fn what_is_written_is_read() {
        for (timeout, text) in [
            (Duration::ZERO, "0n"),
            (Duration::from_nanos(99_999_999), "99999999n"),
            (Duration::from_millis(150), "150000u"),
            (Duration::from_secs(10), "10000000u"),
            (Duration::from_secs(3_600), "3600000m"),
            (Duration::from_secs(1_000_000), "1000000S"),
        ] {
            assert_eq!(value(timeout), text);
            assert_eq!(of(&HeaderMap::from_iter([(NAME, value(timeout))])), Some(timeout));
        }
        assert_eq!(value(Duration::MAX), "99999999S");
    }
}
