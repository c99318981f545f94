//! Futures that are dropped at each point where they wait.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;

/// When a future is dropped that has been polled so often.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Drop {
    /// While it waits.
    Waiting(usize),
    /// When what it waits for has come, and it has not heard of it.
    Woken(usize),
}

/// Every point where a future may be dropped, without end.
pub(crate) fn everywhere() -> impl Iterator<Item = Drop> {
    (1..).flat_map(|polls| [Drop::Waiting(polls), Drop::Woken(polls)])
}

/// Polls a future each time that it is woken, and drops it at a point. What it came to, if it was done before.
pub(crate) async fn dropped<T>(at: Drop, future: impl Future<Output = T>) -> Option<T> {
    let (most, waits) = match at {
        Drop::Waiting(polls) => (polls, false),
        Drop::Woken(polls) => (polls, true),
    };
    let mut polls = 0;
    let mut future = pin!(future);
    poll_fn(|context| {
        if polls == most {
            return Poll::Ready(None);
        }
        polls += 1;
        match future.as_mut().poll(context) {
            Poll::Ready(done) => Poll::Ready(Some(done)),
            Poll::Pending if polls == most && !waits => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}
