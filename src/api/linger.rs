//! An answer given before its request was read, such as 413, must not be lost: a socket closed with bytes
//! unread is reset, and a client that still writes never sees what it was told. So the rest of the body is
//! read and thrown away first, up to a limit.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::Request;
use axum::http::header;
use axum::middleware::Next;
use axum::response::Response;
use hyper::body::{Frame, SizeHint};

/// So much of a body is thrown away at most, for at most so long; a client that sends more may be cut off.
const MAX_BYTES: usize = 16 << 20;
const MAX_TIME: Duration = Duration::from_secs(2);

/// Answers, and then reads what nobody has read of the request's body.
pub(super) async fn read_the_rest(request: Request, next: Next) -> Response {
    if request.body().is_end_stream() {
        return next.run(request).await;
    }
    // Such a client waits for leave to send its body, which reading it would give.
    let asks_first = request.headers().contains_key(header::EXPECT);
    let (head, body) = request.into_parts();
    let body = Shared(Arc::new(Mutex::new(Unread { body, begun: false, ended: false })));
    let response = next.run(Request::from_parts(head, Body::new(body.clone()))).await;
    if body.with(|body| !body.ended && (body.begun || !asks_first)) {
        // Too late is no error: the answer goes out all the same.
        let _ = tokio::time::timeout(MAX_TIME, body.throw_away()).await;
    }
    response
}

struct Unread {
    body: Body,
    begun: bool,
    ended: bool,
}

impl Unread {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        self.begun = true;
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        self.ended = !matches!(frame, Some(Ok(_)));
        Poll::Ready(frame)
    }
}

/// A body that its reader may drop and another read on.
#[derive(Clone)]
struct Shared(Arc<Mutex<Unread>>);

impl Shared {
    fn with<T>(&self, then: impl FnOnce(&mut Unread) -> T) -> T {
        then(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    async fn throw_away(&self) {
        let mut bytes = 0;
        while bytes < MAX_BYTES {
            match std::future::poll_fn(|cx| self.with(|body| body.poll(cx))).await {
                Some(Ok(frame)) => bytes += frame.data_ref().map_or(0, Bytes::len),
                Some(Err(_)) | None => break,
            }
        }
    }
}

impl HttpBody for Shared {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        self.with(|body| body.poll(cx))
    }

    fn is_end_stream(&self) -> bool {
        self.with(|body| body.body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.with(|body| body.body.size_hint())
    }
}
