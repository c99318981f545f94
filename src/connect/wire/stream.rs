//! The stream that the driver writes to and reads from.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::tls::{ChannelBinding, TlsStream};

use super::answers::Answers;
use super::requests::{Requests, are_enough, rewrite};
use super::{Run, Wire};

/// How much is read at once where answers are rewritten.
const PIECE: usize = 8 << 10;

#[derive(Debug)]
pub(in crate::connect) struct Stream<S> {
    inner: S,
    wire: Arc<Wire>,
    requests: Requests,
    answers: Answers,
    /// What was sent and is not answered.
    runs: VecDeque<Run>,
    /// What is rewritten and not sent yet.
    outgoing: Pending,
    /// What is rewritten and the driver has not read yet.
    incoming: Pending,
    piece: Vec<u8>,
}

/// What is kept allocated where nothing waits.
const KEPT: usize = 64 << 10;

/// Bytes that wait to be taken.
#[derive(Debug, Default)]
struct Pending {
    bytes: Vec<u8>,
    taken: usize,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Stream<S> {
    /// Nothing must have been sent before.
    pub(super) fn new(inner: S, wire: Arc<Wire>) -> Self {
        wire.is_followed.store(true, Ordering::Release);
        Self {
            inner,
            wire,
            requests: Requests::default(),
            answers: Answers::default(),
            runs: VecDeque::new(),
            outgoing: Pending::default(),
            incoming: Pending::default(),
            piece: Vec::new(),
        }
    }

    fn poll_send(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.outgoing.is_empty() {
            let sent = Pin::new(&mut self.inner).poll_write(context, self.outgoing.rest());
            match ready!(sent)? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                sent => self.outgoing.take(sent),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Sends as the driver does.
    fn poll_pass(&mut self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let sent = ready!(Pin::new(&mut self.inner).poll_write(context, bytes))?;
        if !self.requests.has_copied {
            self.requests.pass(&bytes[..sent], &mut self.runs);
            if self.requests.has_copied {
                self.wire.is_followed.store(false, Ordering::Release);
            }
        }
        Poll::Ready(Ok(sent))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Stream<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_send(context))?;
        if !this.wire.is_wanted() || this.requests.has_copied {
            return this.poll_pass(context, bytes);
        }
        if !this.requests.is_between() {
            let rest = this.requests.rest(bytes);
            return this.poll_pass(context, &bytes[..rest]);
        }
        if this.wire.is_shared() && !this.runs.is_empty() && !are_enough(bytes) {
            // What was sent before may be held back below, by TLS. Whoever reads the answers is woken by them, and writes then.
            if let Poll::Ready(flushed) = Pin::new(&mut this.inner).poll_flush(context) {
                flushed?;
            }
            return Poll::Pending;
        }
        let taken = rewrite(bytes, &this.wire, &mut this.outgoing.bytes, &mut this.runs);
        if taken == 0 {
            // The driver sends whole requests.
            return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
        }
        // What cannot be sent now is sent with the next, or when it is flushed.
        if let Poll::Ready(sent) = this.poll_send(context) {
            sent?;
        }
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_send(context))?;
        Pin::new(&mut this.inner).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_send(context))?;
        Pin::new(&mut this.inner).poll_shutdown(context)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Stream<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if !this.incoming.is_empty() {
                let rest = this.incoming.rest();
                let taken = rest.len().min(into.remaining());
                into.put_slice(&rest[..taken]);
                this.incoming.take(taken);
                return Poll::Ready(Ok(()));
            }
            if this.answers.may_pass(&this.runs) {
                let before = into.filled().len();
                ready!(Pin::new(&mut this.inner).poll_read(context, into))?;
                this.wire.heard.fetch_add(1, Ordering::Relaxed);
                if !this.requests.has_copied {
                    this.answers.pass(&into.filled()[before..], &mut this.runs);
                }
                return Poll::Ready(Ok(()));
            }
            this.piece.resize(PIECE, 0);
            let mut piece = ReadBuf::new(&mut this.piece);
            ready!(Pin::new(&mut this.inner).poll_read(context, &mut piece))?;
            this.wire.heard.fetch_add(1, Ordering::Relaxed);
            if piece.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            this.answers.rewrite(piece.filled(), &mut this.runs, &mut this.incoming.bytes);
        }
    }
}

impl<S: TlsStream + Unpin> TlsStream for Stream<S> {
    fn channel_binding(&self) -> ChannelBinding {
        self.inner.channel_binding()
    }
}

impl Pending {
    fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    fn rest(&self) -> &[u8] {
        &self.bytes[self.taken..]
    }

    fn take(&mut self, count: usize) {
        self.taken += count;
        if self.taken == self.bytes.len() {
            self.bytes.clear();
            self.bytes.shrink_to(KEPT);
            self.taken = 0;
        }
    }
}
