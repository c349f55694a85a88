//! The parts of gRPC over HTTP/2, and of gRPC-Web, that tell how a call ended.

use std::time::Duration;

use http::{HeaderMap, header};

use crate::node::{Head, Outcome, Verdict};

/// Whether these are headers of gRPC itself, whose status is in the trailers; gRPC-Web has it in the body.
#[cfg(feature = "http")]
pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    flavour(headers).is_some_and(is_itself)
}

/// What the head of a response with status 200 says, if it is one of gRPC's or of gRPC-Web's.
pub(super) fn head(headers: &HeaderMap) -> Option<Head> {
    let flavour = flavour(headers)?;
    match verdict(headers) {
        Some(verdict) => Some(Head::Decided(verdict)),
        None => is_itself(flavour).then_some(Head::AtEnd),
    }
}

/// What the content type says after the name that all of gRPC's begin with.
fn flavour(headers: &HeaderMap) -> Option<&[u8]> {
    headers.get(header::CONTENT_TYPE)?.as_bytes().strip_prefix(b"application/grpc")
}

fn is_itself(flavour: &[u8]) -> bool {
    matches!(flavour.first(), None | Some(b'+' | b';'))
}

/// What `grpc-status`, in the head or in the trailers, says; `None` without one.
pub(crate) fn verdict(headers: &HeaderMap) -> Option<Verdict> {
    let code = headers.get("grpc-status")?.as_bytes();
    let outcome = match code {
        b"2" | b"4" | b"8" | b"13" | b"14" | b"15" => Outcome::Failure,
        _ => Outcome::Success,
    };
    // A negative or unreadable pushback means "do not retry" (gRFC A6), and no time to wait.
    let spare_for = headers
        .get("grpc-retry-pushback-ms")
        .and_then(|value| value.to_str().ok()?.parse().ok())
        .map(Duration::from_millis);
    Some(Verdict { outcome, spare_for })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pushback_is_read_where_it_is_a_time() {
        let read = |pushback: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-status", "14".parse().unwrap());
            headers.insert("grpc-retry-pushback-ms", pushback.parse().unwrap());
            verdict(&headers).unwrap().spare_for
        };
        assert_eq!(read("250"), Some(Duration::from_millis(250)));
        assert_eq!(read("-1"), None);
        assert_eq!(read("soon"), None);
        assert_eq!(verdict(&HeaderMap::new()), None);
    }
}
