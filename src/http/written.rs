//! An answer's body that knows when its bytes are written.
//!
//! The HTTP library moves a body's bytes into its own queue and drops the body before the socket
//! has taken them. So the bytes themselves own the guard that is to be dropped with the answer.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};

use crate::budget::kept_by;

/// A body that keeps a value until the body is dropped and all of its bytes are written or dropped.
pub(crate) struct Written<B, T> {
    body: B,
    kept: Arc<T>,
}

impl<B, T> Written<B, T> {
    pub(crate) fn new(body: B, kept: T) -> Self {
        Self { body, kept: Arc::new(kept) }
    }
}

impl<B: Body<Data = Bytes> + Unpin, T: Send + Sync + 'static> Body for Written<B, T> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(context);
        frame.map_ok(|frame| frame.map_data(|bytes| kept_by(bytes, &self.kept)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use http_body_util::{BodyExt as _, Full};

    use super::*;

    #[test]
    fn what_is_kept_outlives_the_body_until_its_bytes_are_dropped() {
        let kept = Arc::new(());
        let mut body = Written::new(Full::new(Bytes::from_static(b"answer")), Arc::clone(&kept));
        let frame = body.frame().now_or_never().expect("it is there").expect("not at its end");
        drop(body);
        let mut bytes = frame.expect("memory does not fail").into_data().expect("data");
        let end = bytes.split_off(3);
        drop(bytes);
        assert_eq!(Arc::strong_count(&kept), 2, "not all of it is written");
        drop(end);
        assert_eq!(Arc::strong_count(&kept), 1);
    }
}
