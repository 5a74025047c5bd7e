//! The body of a request, which notes when it goes out.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

/// Bytes of known length. They are asked for once the connection stands and the head of the request is written: that
/// moment is when the request goes out, and not when it was decided to make one.
pub(super) struct Outgoing<F> {
    bytes: Option<Bytes>,
    departs: Option<F>,
}

impl<F: FnOnce()> Outgoing<F> {
    /// `departs` is called when the bytes go out, or never.
    pub(super) fn new(bytes: Vec<u8>, departs: F) -> Self {
        Self {
            bytes: Some(bytes.into()),
            departs: Some(departs),
        }
    }
}

impl<F: FnOnce() + Unpin> Body for Outgoing<F> {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let body = self.get_mut();
        if let Some(departs) = body.departs.take() {
            departs();
        }
        Poll::Ready(body.bytes.take().map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.bytes.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
    }
}
