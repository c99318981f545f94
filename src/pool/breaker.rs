//! Why no connection can be made, told at once to everybody who would wait for one.
//!
//! A server that lets nobody in (a wrong password, no room, no answer) is not asked by every task in turn, each of which would wait
//! for the same refusal: after the first failure one attempt goes on in the background, each time after a longer pause. Who needs a
//! new connection then waits for the second attempt, for the first may have met a hiccup; once that has failed too,
//! everybody fails at once with the reason, until one succeeds. A connection refused by the machine itself costs nothing
//! to try, so everybody may: such a server is back the moment that it is.

use std::future::pending;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

use crate::Error;
use crate::random;

/// The pause before the second attempt; doubled up to the maximum, with a part of it left to chance.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// So long at most a server that lets somebody in again is not noticed.
const MAX_PAUSE: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Breaker {
    trouble: watch::Sender<Trouble>,
    /// How often the trouble has changed: counted before anybody can see it.
    changes: AtomicU64,
}

/// What stands in the way of new connections.
#[derive(Debug, Clone, Default)]
pub(super) struct Trouble {
    /// Why the last attempt failed; none since one succeeded.
    pub(super) reason: Option<Error>,
    /// Somebody is at it in the background, and nobody else should.
    pub(super) is_mended: bool,
    /// It makes no sense to wait for that.
    pub(super) is_open: bool,
}

impl Breaker {
    pub(super) fn new() -> Self {
        Self { trouble: watch::Sender::new(Trouble::default()), changes: AtomicU64::new(0) }
    }

    pub(super) fn trouble(&self) -> watch::Ref<'_, Trouble> {
        self.trouble.borrow()
    }

    /// Tells of every failure from now on, and of whatever else may end a wait.
    pub(super) fn subscribe(&self) -> watch::Receiver<Trouble> {
        self.trouble.subscribe()
    }

    /// A number that changes with each of these: who asks for it need not subscribe to learn that there was none.
    pub(super) fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    fn change(&self, change: impl FnOnce(&mut Trouble) -> bool) {
        self.trouble.send_if_modified(|trouble| {
            let changed = change(trouble);
            if changed {
                self.changes.fetch_add(1, Ordering::Release);
            }
            changed
        });
    }

    /// An attempt failed. Returns the duty to go on trying where the failure asks for it, and nobody has it yet.
    pub(super) fn failed(&self, error: Error) -> Option<Mending<'_>> {
        let asks = !error.is_connection_refused();
        let mut begins = false;
        self.change(|trouble| {
            begins = asks && !trouble.is_mended;
            trouble.is_mended |= asks;
            trouble.reason = Some(error);
            true
        });
        begins.then(|| Mending { breaker: self, pause: FIRST_PAUSE })
    }

    /// An attempt succeeded.
    pub(super) fn succeeded(&self) {
        self.change(|trouble| {
            let was = trouble.reason.is_some();
            *trouble = Trouble::default();
            was
        });
    }

    /// The connections that might have been waited for are gone.
    pub(super) fn remind(&self) {
        self.change(|trouble| trouble.reason.is_some());
    }
}

/// Waits until an attempt that has failed may be made again with hope: another has succeeded, or nobody is at it.
pub(super) async fn over(told: &mut watch::Receiver<Trouble>) {
    // A breaker that is gone tells nothing any more, and neither do its connections come.
    if told.wait_for(|trouble| trouble.reason.is_some()).await.is_err() {
        return pending().await;
    }
    loop {
        let over = timeout(MAX_PAUSE, told.wait_for(|trouble| trouble.reason.is_none())).await;
        match over.map(|told| told.is_ok()) {
            Ok(true) => return,
            Ok(false) => return pending().await,
            Err(_) if told.borrow().is_mended => {}
            Err(_) => return,
        }
    }
}

/// The attempts that go on in the background. Given up, they leave it to everybody.
pub(super) struct Mending<'a> {
    breaker: &'a Breaker,
    pause: Duration,
}

impl Mending<'_> {
    /// The pause before the next attempt: those who failed together do not come back together.
    pub(super) fn pause(&mut self) -> Duration {
        let pause = self.pause.mul_f64(0.5 + random::fraction() / 2.0);
        self.pause = (self.pause * 2).min(MAX_PAUSE);
        pause
    }

    /// One of them failed, too.
    pub(super) fn failed(&self, error: Error) {
        self.breaker.change(|trouble| {
            trouble.is_open = true;
            trouble.reason = Some(error);
            true
        });
    }
}

impl Drop for Mending<'_> {
    fn drop(&mut self) {
        self.breaker.change(|trouble| {
            trouble.is_mended = false;
            trouble.is_open = false;
            true
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    #[test]
    fn a_second_failure_opens_it_until_the_mending_ends() {
        let breaker = Breaker::new();
        let failure = || Error::new(Kind::Config, "wrong password");
        let mut mending = breaker.failed(failure()).unwrap();
        assert!(breaker.trouble().is_mended && breaker.failed(failure()).is_none());
        assert!(!breaker.trouble().is_open);
        mending.failed(failure());
        assert!(breaker.trouble().is_open);
        let pauses: Vec<_> = (0..8).map(|_| mending.pause()).collect();
        assert!(pauses[0] >= FIRST_PAUSE / 2 && pauses[0] <= FIRST_PAUSE, "{pauses:?}");
        assert!(pauses[7] >= MAX_PAUSE / 2 && pauses[7] <= MAX_PAUSE, "{pauses:?}");
        drop(mending);
        assert!(!breaker.trouble().is_open && breaker.trouble().reason.is_some());
        breaker.succeeded();
        assert!(breaker.trouble().reason.is_none());
    }

    #[test]
    fn a_connection_refused_by_the_machine_is_told_and_opens_nothing() {
        let breaker = Breaker::new();
        let told = breaker.subscribe();
        let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        let error = Error::new(Kind::Unavailable, "cannot connect").because(refused);
        assert!(breaker.failed(error).is_none());
        assert!(told.has_changed().unwrap() && !breaker.trouble().is_mended);
    }
}
