//! What a response says of the endpoint that gave it.

use std::error::Error as StdError;

use http::{HeaderMap, Response, StatusCode, header};

use super::{grpc, retry_after::retry_after};
use crate::node::{Head, Outcome, Verdict};

/// Judges responses and errors: was the endpoint to blame?
///
/// Called once for each attempt that was sent: with its response head, or with the error that came
/// instead; and at the end of the stream where the head left it open. A type of one's own:
///
/// ```
/// use evenkeel::{health::Classify, node::{Head, Outcome}};
///
/// /// Answers of a protocol in which `!` marks a failure.
/// #[derive(Clone)]
/// struct Bang;
///
/// impl Classify<String> for Bang {
///     fn head(&self, response: &String) -> Head {
///         let failed = response.starts_with('!');
///         Head::Decided(if failed { Outcome::Failure } else { Outcome::Success }.into())
///     }
/// }
/// assert_eq!(Bang.head(&"ok".to_owned()), Head::Decided(Outcome::Success.into()));
/// ```
pub trait Classify<Res>: Clone + Send + Sync + 'static {
    /// What the response head says.
    fn head(&self, response: &Res) -> Head;

    /// What an error instead of a response says; a failure by default.
    fn error(&self, _error: &(dyn StdError + 'static)) -> Verdict {
        Outcome::Failure.into()
    }

    /// What the end of the stream says, with its trailers if there were any, where the head left it
    /// open; a success by default.
    fn end(&self, _trailers: Option<&HeaderMap>) -> Verdict {
        Outcome::Success.into()
    }

    /// What a stream says that broke off; a failure by default.
    fn broken(&self, _error: &(dyn StdError + 'static)) -> Verdict {
        Outcome::Failure.into()
    }
}

/// Any response is a success, any error a failure: for what is not HTTP.
#[derive(Clone, Copy, Debug, Default)]
pub struct AnyResponse;

/// HTTP and gRPC.
///
/// | seen | outcome |
/// |---|---|
/// | 429 | overloaded: spared for its Retry-After |
/// | 500 and above, but 501 and 505 | failure; 503 is spared for its Retry-After |
/// | any other status | success |
/// | `grpc-status` 2, 4, 8, 13, 14, 15 (UNKNOWN, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, INTERNAL, UNAVAILABLE, DATA_LOSS) | failure: spared for its `grpc-retry-pushback-ms` |
/// | any other `grpc-status` | success |
/// | a gRPC stream that ends without a status | failure |
/// | a gRPC-Web response, whose status is in its body, which is not read | success, unless its head has a `grpc-status` |
/// | an error, or a body that breaks off | failure |
#[derive(Clone, Copy, Debug, Default)]
pub struct HttpClassify;

impl<Res> Classify<Res> for AnyResponse {
    fn head(&self, _response: &Res) -> Head {
        Head::Decided(Outcome::Success.into())
    }
}

impl<B> Classify<Response<B>> for HttpClassify {
    #[inline]
    fn head(&self, response: &Response<B>) -> Head {
        let (status, headers) = (response.status(), response.headers());
        if status == StatusCode::OK {
            if let Some(head) = grpc::head(headers) {
                return head;
            }
        }
        let outcome = match status {
            StatusCode::TOO_MANY_REQUESTS => Outcome::Overloaded,
            StatusCode::NOT_IMPLEMENTED | StatusCode::HTTP_VERSION_NOT_SUPPORTED => {
                Outcome::Success
            }
            status if status.as_u16() >= 500 => Outcome::Failure,
            _ => Outcome::Success,
        };
        let asks =
            matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE);
        let spare_for = if asks && headers.contains_key(header::RETRY_AFTER) {
            retry_after(headers)
        } else {
            None
        };
        Head::Decided(Verdict { outcome, spare_for })
    }

    fn end(&self, trailers: Option<&HeaderMap>) -> Verdict {
        // Only gRPC leaves its outcome open in the head.
        trailers.and_then(grpc::verdict).unwrap_or(Outcome::Failure.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn head(status: u16, headers: &[(&str, &str)]) -> Head {
        let mut response = Response::builder().status(status);
        for (name, value) in headers {
            response = response.header(*name, *value);
        }
        HttpClassify.head(&response.body(()).unwrap())
    }

    fn decided(outcome: Outcome, spare_secs: Option<u64>) -> Head {
        Head::Decided(Verdict { outcome, spare_for: spare_secs.map(Duration::from_secs) })
    }

    /// R3: which statuses are failures, which only say that there is no room.
    #[test]
    fn r3_http_statuses() {
        for status in [200, 204, 301, 400, 404, 499, 501, 505] {
            assert_eq!(head(status, &[]), decided(Outcome::Success, None), "{status}");
        }
        for status in [500, 502, 503, 504, 599] {
            assert_eq!(head(status, &[]), decided(Outcome::Failure, None), "{status}");
        }
        assert_eq!(head(429, &[]), decided(Outcome::Overloaded, None));
        assert_eq!(head(429, &[("retry-after", "7")]), decided(Outcome::Overloaded, Some(7)));
        assert_eq!(head(503, &[("retry-after", "7")]), decided(Outcome::Failure, Some(7)));
        assert_eq!(head(500, &[("retry-after", "7")]), decided(Outcome::Failure, None));
    }

    /// R3: which gRPC codes are failures, in the head (trailers only) and in the trailers.
    #[test]
    fn r3_grpc_codes() {
        let grpc = ("content-type", "application/grpc+proto");
        for code in 0..=17 {
            let text = code.to_string();
            let expected = match code {
                2 | 4 | 8 | 13 | 14 | 15 => Outcome::Failure,
                _ => Outcome::Success,
            };
            assert_eq!(
                head(200, &[grpc, ("grpc-status", &text)]),
                decided(expected, None),
                "{code}"
            );
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", text.parse().unwrap());
            let end = Classify::<Response<()>>::end(&HttpClassify, Some(&trailers));
            assert_eq!(end.outcome, expected, "{code}");
        }
        assert_eq!(head(200, &[grpc]), Head::AtEnd);
        let without = Classify::<Response<()>>::end(&HttpClassify, None);
        assert_eq!(without.outcome, Outcome::Failure);
        assert_eq!(head(503, &[grpc]), decided(Outcome::Failure, None), "a proxy's answer");
        for kind in ["application/grpc", "application/grpc; charset=utf-8"] {
            assert_eq!(head(200, &[("content-type", kind)]), Head::AtEnd, "{kind}");
        }
    }

    /// R3: gRPC-Web has its status in the body, or in the head where there is nothing else.
    #[test]
    fn r3_grpc_web_is_decided_by_its_head() {
        for kind in
            ["application/grpc-web", "application/grpc-web+proto", "application/grpc-web-text"]
        {
            let web = ("content-type", kind);
            assert_eq!(head(200, &[web]), decided(Outcome::Success, None), "{kind}");
            let unavailable = head(200, &[web, ("grpc-status", "14")]);
            assert_eq!(unavailable, decided(Outcome::Failure, None), "{kind}");
        }
    }
}
