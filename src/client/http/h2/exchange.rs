//! One request on a connection that has a stream for it.

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::Poll,
};

use bytes::Bytes;
use h2::{
    Reason,
    client::{ResponseFuture, SendRequest},
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, header, request::Parts};
use http_body::Body;
use tokio::runtime::Handle;

use super::{
    super::{
        body::HttpBody,
        request_body::{Failure, RequestBody},
    },
    incoming::{Incoming, Rest},
    pump::Pump,
    trunk::{Gone, Slot},
};
use crate::{
    error::{BodyError, BoxError},
    health::is_grpc,
};

/// Why there is no response, and what that says of the request.
#[derive(Debug)]
pub(in super::super) enum Failed {
    /// Nothing of it was sent, since the connection takes no more.
    Unsent(BoxError),
    /// Never sent, since no HTTP/2 peer could be sent this.
    Unfit(BoxError),
    /// A GOAWAY with a lower last stream: the peer will not process it.
    Above(BoxError),
    /// REFUSED_STREAM: the peer has not processed it.
    Refused(BoxError),
    /// Sent, at least in part, on a connection that ended without a word of it.
    Died(BoxError),
    /// Sent, at least in part.
    Ambiguous(BoxError),
}

/// Sends a request whose `head` is dressed for HTTP/2, and waits for the head of its response. The
/// rest of a body that is not all sent by then goes on by itself.
pub(in super::super) async fn exchange(
    mut slot: Slot,
    head: Parts,
    body: &mut RequestBody,
    runtime: &Handle,
) -> Result<Response<HttpBody>, Failed> {
    let is_grpc = is_grpc(&head.headers);
    let sent = send(&mut slot.trunk.sender, head, body);
    let (mut response, mut pump) = sent.map_err(|error| unsendable(&slot, error))?;
    let stream = response.stream_id().as_u32();
    slot.opened(stream);
    if pump.is_over() {
        slot.sent();
    }
    let answered = poll_fn(|cx| {
        // A body that cannot be sent makes the request fail whatever the peer says.
        if !pump.is_over() {
            match pump.poll(cx, body) {
                Poll::Ready(Err(error)) => {
                    pump.break_off();
                    return Poll::Ready(Err(Failed::Ambiguous(BodyError(error).into())));
                }
                Poll::Ready(Ok(())) => slot.sent(),
                Poll::Pending => {}
            }
        }
        Pin::new(&mut response).poll(cx).map_err(|error| failed(&slot, stream, error))
    });
    let response = answered.await?;
    slot.trunk.state.served.store(true, Ordering::Relaxed);
    body.forget();
    let slot = Arc::new(slot);
    let rest = (!pump.is_over()).then(|| {
        let (mut body, slot) = (std::mem::replace(body, RequestBody::gone()), Arc::clone(&slot));
        let failure = Arc::new(Failure::default());
        let told = Arc::clone(&failure);
        let task = runtime.spawn(async move {
            if let Err(error) = poll_fn(|cx| pump.poll(cx, &mut body)).await {
                // First why, then the news of it.
                told.set(error);
                pump.break_off();
            }
            slot.sent();
        });
        Rest::new(task.abort_handle(), failure, is_grpc)
    });
    let announced = response.headers().get(header::CONTENT_LENGTH);
    let announced = announced.and_then(|length| length.to_str().ok()?.parse().ok());
    Ok(response.map(|stream| HttpBody::http2(Incoming::new(stream, announced, slot, rest))))
}

fn send(
    sender: &mut SendRequest<Bytes>,
    mut head: Parts,
    body: &RequestBody,
) -> Result<(ResponseFuture, Pump), h2::Error> {
    let over = body.is_end_stream();
    strip(&mut head.headers);
    if let Some(protocol) = head.extensions.remove::<hyper::ext::Protocol>() {
        head.extensions.insert(h2::ext::Protocol::from(protocol.as_str()));
    }
    let means_a_body = matches!(head.method, Method::POST | Method::PUT | Method::PATCH);
    let length = body.size_hint().exact().filter(|&length| length > 0 || means_a_body);
    if let (Some(length), true) = (length, head.method != Method::CONNECT) {
        let length = HeaderValue::from(length);
        head.headers.entry(header::CONTENT_LENGTH).or_insert(length);
    }
    let (response, stream) = sender.send_request(Request::from_parts(head, ()), over)?;
    Ok((response, Pump::new(stream, over)))
}

/// Takes out what belongs to an HTTP/1.1 connection (RFC 9113 section 8.2.2).
fn strip(headers: &mut HeaderMap) {
    const HOP_BY_HOP: [HeaderName; 4] = [
        HeaderName::from_static("keep-alive"),
        HeaderName::from_static("proxy-connection"),
        header::TRANSFER_ENCODING,
        header::UPGRADE,
    ];
    for name in &HOP_BY_HOP {
        headers.remove(name);
    }
    if headers.get(header::TE).is_some_and(|te| te != "trailers") {
        headers.remove(header::TE);
    }
    let connection: Vec<_> = headers.get_all(header::CONNECTION).iter().cloned().collect();
    headers.remove(header::CONNECTION);
    for named in &connection {
        for name in named.to_str().unwrap_or_default().split(',') {
            headers.remove(name.trim());
        }
    }
}

/// What the refusal of a request by h2 itself says.
fn unsendable(slot: &Slot, error: h2::Error) -> Failed {
    match slot.trunk.gone() {
        Some(gone) => Failed::Unsent(gone.into()),
        None if error.is_io() || error.is_go_away() || error.is_reset() => {
            Failed::Unsent(error.into())
        }
        None => Failed::Unfit(error.into()),
    }
}

/// What an error in place of the response says of the request on `stream`.
fn failed(slot: &Slot, stream: u32, error: h2::Error) -> Failed {
    let state = &slot.trunk.state;
    if error.is_remote() && error.is_reset() && error.reason() == Some(Reason::REFUSED_STREAM) {
        return Failed::Refused(error.into());
    }
    if state.monitor.goaway().is_some_and(|goaway| stream > goaway.last_stream) {
        return Failed::Above(error.into());
    }
    // It waited in line for the connection, which ended before: a GOAWAY can come between.
    if stream > state.monitor.last_sent() && (error.is_io() || error.is_go_away()) {
        return Failed::Unsent(error.into());
    }
    match state.end.get() {
        Some(&gone @ Gone::Silent(_)) => Failed::Ambiguous(gone.into()),
        _ if error.is_io() && !state.monitor.is_cut() => Failed::Died(error.into()),
        _ => Failed::Ambiguous(error.into()),
    }
}
