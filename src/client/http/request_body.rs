//! Any request body as one type, which remembers what was sent until the response comes.
//!
//! A request that the peer provably did not process is sent again, to this endpoint or another, and
//! nobody asks the body's type to be `Clone`: what went out is kept as cheap copies of its frames, up
//! to 64 KiB. Sent again, those come first and the rest of the body follows, unless it had ended: a
//! body is not polled after its end.

use std::{
    any::Any,
    mem,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};

use crate::error::{BodyError, BoxError};

/// How much of a sent body is kept.
const MOST_KEPT: usize = 64 * 1024;

/// A request body whose type is forgotten, so that one connection serves any.
pub(super) struct RequestBody {
    source: Source,
    sent: Sent,
}

/// Until it is first polled, the body can be taken back as what it was; then it is pinned.
enum Source {
    Fresh(Box<dyn AnyBody>),
    Running(Pin<Box<dyn AnyBody>>),
    Ended,
}

/// What was taken from the source, and how much of that has been sent this time.
struct Sent {
    frames: Vec<Bytes>,
    trailers: Option<HeaderMap>,
    bytes: usize,
    /// How many of the frames have been sent this time.
    position: usize,
    trailers_sent: bool,
    /// Whether all that was sent is here.
    kept: bool,
}

pub(super) trait AnyBody: Send {
    fn poll_bytes(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>>;
    fn ended(&self) -> bool;
    fn size(&self) -> SizeHint;
    fn into_any(self: Box<Self>) -> Box<dyn Any>;
}

/// A body that is lent to hyper, and comes back however the connection ends.
pub(super) struct Lent(Arc<Loan>);

/// What hyper has of it.
pub(super) struct Borrowed(Arc<Loan>);

struct Loan {
    lending: Mutex<Lending>,
    failure: Failure,
}

struct Lending {
    body: RequestBody,
    /// Nobody will ask for it back.
    forgotten: bool,
    /// hyper is done with it.
    done: bool,
}

/// Why a body failed of itself: kept from the protocol's library, which would tell the cause to nobody once
/// the response's head has come. The reader of the response hears of it then.
#[derive(Default)]
pub(super) struct Failure(Mutex<Option<BodyError>>);

// === impl RequestBody ===

impl RequestBody {
    pub(super) fn new<B>(body: B) -> Self
    where
        B: Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<BoxError>,
    {
        let sent = Sent {
            frames: Vec::new(),
            trailers: None,
            bytes: 0,
            position: 0,
            trailers_sent: false,
            kept: true,
        };
        Self { source: Source::Fresh(Box::new(body)), sent }
    }

    /// Nothing, in the place of a body that has gone elsewhere.
    pub(super) fn gone() -> Self {
        Self {
            source: Source::Ended,
            sent: Sent {
                frames: Vec::new(),
                trailers: None,
                bytes: 0,
                position: 0,
                trailers_sent: true,
                kept: false,
            },
        }
    }

    /// The body that went in, unless it was polled; else itself.
    pub(super) fn take_back<B: 'static>(self) -> Result<B, Box<Self>> {
        match self.source {
            Source::Fresh(body) => match body.into_any().downcast() {
                Ok(body) => Ok(*body),
                Err(_) => Err(Box::new(Self::gone())),
            },
            source => Err(Box::new(Self { source, sent: self.sent })),
        }
    }

    /// Begins anew, if everything that was sent is still here.
    pub(super) fn rewind(&mut self) -> bool {
        if self.sent.kept {
            self.sent.position = 0;
            self.sent.trailers_sent = false;
        }
        self.sent.kept
    }

    /// Lets go of what was sent: there will be no other time.
    pub(super) fn forget(&mut self) {
        let sent = &mut self.sent;
        sent.kept = false;
        sent.frames.drain(..sent.position);
        sent.position = 0;
    }

    fn run(&mut self) -> Option<Pin<&mut (dyn AnyBody + 'static)>> {
        self.source = match mem::replace(&mut self.source, Source::Ended) {
            Source::Fresh(body) => Source::Running(Box::into_pin(body)),
            other => other,
        };
        match &mut self.source {
            Source::Running(body) => Some(body.as_mut()),
            _ => None,
        }
    }

    fn source_has_ended(&self) -> bool {
        match &self.source {
            Source::Fresh(body) => body.ended(),
            Source::Running(body) => body.ended(),
            Source::Ended => true,
        }
    }

    /// The next of what was sent before.
    fn again(&mut self) -> Option<Frame<Bytes>> {
        let sent = &mut self.sent;
        if let Some(bytes) = sent.frames.get_mut(sent.position) {
            sent.position += 1;
            let bytes = if sent.kept { bytes.clone() } else { mem::take(bytes) };
            return Some(Frame::data(bytes));
        }
        if sent.trailers_sent || !matches!(self.source, Source::Ended) {
            return None;
        }
        sent.trailers_sent = true;
        sent.trailers.clone().map(Frame::trailers)
    }
}

impl Sent {
    /// Keeps a copy of what goes out, as long as there is room for all of it.
    fn keep(&mut self, frame: &Frame<Bytes>) {
        if let (Some(data), true) = (frame.data_ref(), self.kept) {
            self.bytes += data.len();
            if self.bytes > MOST_KEPT {
                self.kept = false;
                self.frames = Vec::new();
                self.position = 0;
            } else {
                self.frames.push(data.clone());
                self.position += 1;
            }
        }
        if let Some(trailers) = frame.trailers_ref() {
            self.trailers_sent = true;
            self.trailers = self.kept.then(|| trailers.clone());
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        if let Some(frame) = this.again() {
            return Poll::Ready(Some(Ok(frame)));
        }
        let Some(body) = this.run() else { return Poll::Ready(None) };
        let frame = ready!(body.poll_bytes(cx));
        match &frame {
            Some(Ok(frame)) => {
                this.sent.keep(frame);
                if frame.is_trailers() {
                    this.source = Source::Ended;
                }
            }
            None => {
                this.source = Source::Ended;
                this.sent.trailers_sent = true;
            }
            // It cannot be sent in full, however often.
            Some(Err(_)) => {
                this.source = Source::Ended;
                this.sent.kept = false;
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        let sent = &self.sent;
        sent.position >= sent.frames.len()
            && (sent.trailers_sent || sent.trailers.is_none())
            && self.source_has_ended()
    }

    fn size_hint(&self) -> SizeHint {
        let again: usize = self.sent.frames[self.sent.position..].iter().map(Bytes::len).sum();
        let again = again as u64;
        let rest = match &self.source {
            Source::Fresh(body) => body.size(),
            Source::Running(body) => body.size(),
            Source::Ended => SizeHint::with_exact(0),
        };
        let mut hint = SizeHint::new();
        if let Some(upper) = rest.upper().and_then(|upper| upper.checked_add(again)) {
            hint.set_upper(upper);
        }
        hint.set_lower(rest.lower().saturating_add(again).min(hint.upper().unwrap_or(u64::MAX)));
        hint
    }
}

// === impl AnyBody ===

impl<B> AnyBody for B
where
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    fn poll_bytes(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = ready!(self.poll_frame(cx));
        // `Bytes` itself is passed on without a copy.
        Poll::Ready(frame.map(|result| match result {
            Ok(frame) => Ok(frame.map_data(|mut data| data.copy_to_bytes(data.remaining()))),
            Err(error) => Err(error.into()),
        }))
    }

    fn ended(&self) -> bool {
        self.is_end_stream()
    }

    fn size(&self) -> SizeHint {
        self.size_hint()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

// === impl Lent ===

impl Lent {
    pub(super) fn new(body: RequestBody) -> Self {
        let lending = Mutex::new(Lending { body, forgotten: false, done: false });
        Self(Arc::new(Loan { lending, failure: Failure::default() }))
    }

    /// For hyper, which gets it once.
    pub(super) fn borrowed(&self) -> Borrowed {
        Borrowed(Arc::clone(&self.0))
    }

    /// Why the body failed of itself, if it did.
    pub(super) fn take_failure(&self) -> Option<BodyError> {
        self.0.failure.take()
    }

    /// Takes the body back; whoever holds it still finds nothing.
    pub(super) fn reclaim(&self) -> RequestBody {
        mem::replace(&mut self.0.lending().body, RequestBody::gone())
    }

    pub(super) fn forget(&self) {
        self.0.mark(|lending| {
            lending.body.forget();
            lending.forgotten = true;
        });
    }
}

// === impl Loan ===

impl Loan {
    fn lending(&self) -> MutexGuard<'_, Lending> {
        self.lending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets go of the body once nobody wants it: who feeds it shall not wait for the reader of the response.
    fn mark(&self, mark: impl FnOnce(&mut Lending)) {
        let mut lending = self.lending();
        mark(&mut lending);
        let over = lending.forgotten && lending.done;
        let body = over.then(|| mem::replace(&mut lending.body, RequestBody::gone()));
        drop(lending);
        // The caller's own, and so not under the lock.
        drop(body);
    }
}

// === impl Borrowed ===

impl Drop for Borrowed {
    fn drop(&mut self) {
        self.0.mark(|lending| lending.done = true);
    }
}

impl Body for Borrowed {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = ready!(Pin::new(&mut self.0.lending().body).poll_frame(cx));
        Poll::Ready(frame.map(|frame| {
            frame.map_err(|error| {
                self.0.failure.set(error);
                "the request's body failed".into()
            })
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.0.lending().body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.lending().body.size_hint()
    }
}

// === impl Failure ===

impl Failure {
    /// Says why, before the news of it gets to anybody.
    pub(super) fn set(&self, error: BoxError) {
        *self.cell() = Some(BodyError(error));
    }

    pub(super) fn take(&self) -> Option<BodyError> {
        self.cell().take()
    }

    fn cell(&self) -> MutexGuard<'_, Option<BodyError>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::VecDeque, convert::Infallible, marker::PhantomPinned};

    use http::HeaderValue;
    use http_body_util::BodyExt;

    use super::*;

    /// Cannot be moved once polled, and panics when it is polled after its end.
    struct Strict {
        left: Mutex<Option<VecDeque<Frame<Bytes>>>>,
        _pinned: PhantomPinned,
    }

    fn strict(frames: impl IntoIterator<Item = Frame<Bytes>>) -> Strict {
        Strict { left: Mutex::new(Some(frames.into_iter().collect())), _pinned: PhantomPinned }
    }

    impl Body for Strict {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            let mut left = self.left.lock().unwrap();
            let next = left.as_mut().expect("polled after its end").pop_front();
            if next.is_none() {
                *left = None;
            }
            Poll::Ready(next.map(Ok))
        }
    }

    fn data(bytes: usize) -> Frame<Bytes> {
        Frame::data(Bytes::from(vec![7; bytes]))
    }

    async fn all(body: &mut RequestBody) -> (usize, Option<HeaderMap>) {
        let (mut bytes, mut trailers) = (0, None);
        while let Some(frame) = body.frame().await {
            match frame.unwrap().into_data() {
                Ok(data) => bytes += data.len(),
                Err(frame) => trailers = frame.into_trailers().ok(),
            }
        }
        (bytes, trailers)
    }

    #[tokio::test]
    async fn a_body_comes_back_as_it_was_until_it_is_polled() {
        let body = RequestBody::new(strict([data(1)]));
        let body = body.take_back::<Strict>().ok().unwrap();
        let mut body = RequestBody::new(body);
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap().len(), 1);
        assert!(body.take_back::<Strict>().is_err());
    }

    /// R21: whatever was sent when the connection went, all of it is sent again, and the end is
    /// remembered.
    #[tokio::test]
    async fn r21_a_body_is_sent_again_from_its_beginning() {
        for polled in 0..=4 {
            let mut trailers = HeaderMap::new();
            trailers.insert("sum", HeaderValue::from_static("1"));
            let frames = [data(10), data(20), Frame::trailers(trailers.clone())];
            let mut body = RequestBody::new(strict(frames));
            for _ in 0..polled {
                let _ = body.frame().await;
            }
            for _ in 0..3 {
                assert!(body.rewind());
                assert_eq!(all(&mut body).await, (30, Some(trailers.clone())), "{polled} polls");
                assert!(body.is_end_stream());
            }
        }
        let mut body = RequestBody::new(http_body_util::Full::new(Bytes::from("abc")));
        assert_eq!(all(&mut body).await, (3, None));
        assert!(body.rewind() && !body.is_end_stream());
        assert_eq!(body.size_hint().exact(), Some(3));
        assert_eq!(all(&mut body).await, (3, None));
    }

    #[tokio::test]
    async fn no_more_than_64_kib_are_kept() {
        for (more, kept) in [(0, true), (1, false)] {
            let mut body = RequestBody::new(strict([data(MOST_KEPT), data(more), data(5)]));
            for _ in 0..2 {
                body.frame().await.unwrap().unwrap();
            }
            assert_eq!(body.sent.kept, kept);
            assert_eq!(body.rewind(), kept);
            let left = if kept { MOST_KEPT + 5 } else { 5 };
            assert_eq!(all(&mut body).await, (left, None));
        }
    }

    #[tokio::test]
    async fn what_a_second_time_has_not_sent_yet_survives_the_letting_go() {
        let mut body = RequestBody::new(strict([data(1), data(2), data(4)]));
        for _ in 0..2 {
            body.frame().await.unwrap().unwrap();
        }
        assert!(body.rewind());
        body.frame().await.unwrap().unwrap();
        body.forget();
        assert_eq!(all(&mut body).await, (6, None));
        assert!(!body.rewind());
    }

    #[tokio::test]
    async fn a_lent_body_comes_back_from_under_its_holder() {
        let lent = Lent::new(RequestBody::new(strict([data(1), data(2)])));
        let mut held = lent.borrowed();
        held.frame().await.unwrap().unwrap();
        let mut body = lent.reclaim();
        assert!(held.frame().await.is_none() && held.is_end_stream());
        assert!(body.rewind());
        assert_eq!(all(&mut body).await, (3, None));
    }
}
