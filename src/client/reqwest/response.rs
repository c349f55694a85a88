//! From a balanced response to reqwest's own.

use std::{
    pin::Pin,
    sync::{Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use bytes::Bytes;
use http::Uri;
use http_body::{Body, Frame, SizeHint};
use reqwest::{Response, ResponseBuilderExt, Url};

use crate::{client::sent::SentTo, error::BoxError};

/// The response to a request for `url`, which went out as `uri`.
pub(super) fn of<B>(mut response: http::Response<B>, uri: &Uri, url: Url) -> Response
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let url = match response.extensions_mut().remove::<SentTo>() {
        Some(SentTo(last)) if last != *uri => redirected(&last, url),
        _ => url,
    };
    // reqwest takes the URL out of an extension that only its own builder can make.
    if let Ok(carrier) = http::Response::builder().url(url).body(()) {
        response.extensions_mut().extend(carrier.into_parts().0.extensions);
    }
    response.map(|body| reqwest::Body::wrap(Exclusive::new(body))).into()
}

/// The URL of the last hop; a fragment goes along (RFC 9110 section 10.2.2).
fn redirected(last: &Uri, asked: Url) -> Url {
    match Url::parse(&last.to_string()) {
        Ok(mut url) => {
            url.set_fragment(asked.fragment());
            url
        }
        Err(_) => asked,
    }
}

/// A body that may be shared between threads, which reqwest asks for, because only one can ever use
/// it: the lock is free whenever it is asked for.
struct Exclusive<B>(Mutex<Pin<Box<B>>>);

// === impl Exclusive ===

impl<B> Exclusive<B> {
    fn new(body: B) -> Self {
        Self(Mutex::new(Box::pin(body)))
    }

    fn lock(&self) -> MutexGuard<'_, Pin<Box<B>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<B> Body for Exclusive<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let body = self.get_mut().0.get_mut().unwrap_or_else(PoisonError::into_inner);
        body.as_mut().poll_frame(cx).map_err(Into::into)
    }

    fn is_end_stream(&self) -> bool {
        self.lock().is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.lock().size_hint()
    }
}
