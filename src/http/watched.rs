//! A stream whose end is noticed while a request waits.
//!
//! The HTTP library reads nothing while a request is being answered, so that a client may close its
//! sending side and still read the answer. A caller that waits for a lock, though, may have gone for
//! good, and its place in the queue is left only if this is noticed: so while it waits the stream is
//! read ahead of the library.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The most bytes that are read ahead: a client that sends its next request already is not watched
/// any further.
const AHEAD: usize = 512;

/// A stream that the HTTP library reads and writes, and its watch reads ahead.
pub(crate) struct Watched<T>(Arc<Mutex<Inner<T>>>);

/// The watch of a stream's end.
pub(crate) struct Watch<T>(Arc<Mutex<Inner<T>>>);

struct Inner<T> {
    stream: T,
    /// Bytes that the library has not read yet.
    ahead: Vec<u8>,
}

impl<T> Watched<T> {
    pub(crate) fn new(stream: T) -> (Self, Watch<T>) {
        let inner = Arc::new(Mutex::new(Inner { stream, ahead: Vec::new() }));
        (Self(Arc::clone(&inner)), Watch(inner))
    }
}

/// Both ends are polled by one task, so nobody waits for the lock.
fn lock<T>(inner: &Mutex<Inner<T>>) -> MutexGuard<'_, Inner<T>> {
    inner.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<T: AsyncRead + Unpin> Watch<T> {
    /// Ready once the other side has closed the stream, at least for sending. Only the task that
    /// reads the stream may call it.
    pub(crate) fn poll_end(&self, context: &mut Context<'_>) -> Poll<()> {
        let mut inner = lock(&self.0);
        if !inner.ahead.is_empty() {
            return Poll::Pending;
        }
        let mut bytes = [0; AHEAD];
        let mut read = ReadBuf::new(&mut bytes);
        // A stream that is broken has ended too.
        let _ = ready!(Pin::new(&mut inner.stream).poll_read(context, &mut read));
        if read.filled().is_empty() {
            return Poll::Ready(());
        }
        inner.ahead.extend_from_slice(read.filled());
        Poll::Pending
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Watched<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut inner = lock(&self.0);
        if inner.ahead.is_empty() {
            return Pin::new(&mut inner.stream).poll_read(context, buffer);
        }
        let fits = inner.ahead.len().min(buffer.remaining());
        buffer.put_slice(&inner.ahead[..fits]);
        inner.ahead.drain(..fits);
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Watched<T> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut lock(&self.0).stream).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut lock(&self.0).stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut lock(&self.0).stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut lock(&self.0).stream).poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        lock(&self.0).stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use futures::FutureExt as _;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn an_end_is_noticed_and_nothing_that_was_sent_before_it_is_lost() {
        let (near, mut far) = tokio::io::duplex(4096);
        let (mut near, watch) = Watched::new(near);
        let mut ended = poll_fn(|context| watch.poll_end(context));
        assert!((&mut ended).now_or_never().is_none());
        let sent: Vec<u8> = (0..AHEAD + 100).map(|number| number.to_le_bytes()[0]).collect();
        far.write_all(&sent).await.unwrap();
        far.shutdown().await.unwrap();
        // It is not noticed while something before it is unread.
        assert!((&mut ended).now_or_never().is_none());
        assert!((&mut ended).now_or_never().is_none());
        let mut read = vec![0; sent.len()];
        for part in read.chunks_mut(100) {
            near.read_exact(part).await.unwrap();
        }
        assert_eq!(read, sent);
        ended.await;
        assert_eq!(near.read(&mut [0]).await.unwrap(), 0, "the reader sees the end, too");
    }
}
