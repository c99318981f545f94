//! What is said to the server beyond what the driver says: between the driver and its socket.
//!
//! The driver ends every request with a Sync, which has the server end a transaction and send what it has. PostgreSQL does
//! not ask for that, and it is half of what a small read costs:
//!
//! - Reads of a pipeline that leave together [share](Wire::share) one Sync. The server does them one after the other, each with a
//!   snapshot of its own, and answers them in one piece. Where one fails, the server skips those behind it; these hear
//!   that from here, and are done again by whoever sent them.
//! - The commands that begin a transaction [go with](Wire::go_with_next) its first statement, ahead of the same Sync: if one of
//!   them fails, the statement is skipped. So a transaction begins without a round trip, and no statement of it is
//!   ever executed outside of it.
//!
//! The driver sees neither: each of its requests is answered as if it had been alone. Source: PostgreSQL, "Message Flow",
//! "Extended Query" and "Pipelining".

mod answers;
mod connector;
mod requests;
mod stream;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::BytesMut;
use postgres_protocol::message::frontend;

pub(super) use connector::Wired;

/// One connection's wire, as whoever uses the connection knows it.
#[derive(Debug, Default)]
pub(crate) struct Wire {
    is_plain: bool,
    /// The driver's bytes pass through here, and nothing was sent that would make the count of answers uncertain.
    is_followed: AtomicBool,
    is_shared: AtomicBool,
    has_lead: AtomicBool,
    lead: Mutex<Option<Lead>>,
    /// How often something of the server's was read.
    heard: AtomicU64,
}

/// What goes ahead of the next request.
#[derive(Debug)]
struct Lead {
    frames: BytesMut,
    commands: u32,
}

impl Wire {
    /// From now on, requests that leave together share one Sync. For a connection that only reads, as the server does
    /// nothing of what comes behind a request that fails; and where that is told only at the end, as with serializable
    /// transactions, those before it have been answered.
    pub(crate) fn share(&self) {
        self.is_shared.store(true, Ordering::Release);
    }

    /// Changes whenever the server says something, if the driver's bytes pass through here; also what nobody waits for
    /// any more.
    pub(crate) fn heard(&self) -> u64 {
        self.heard.load(Ordering::Relaxed)
    }

    /// Sends commands together with the next request; if one of them fails, that request is answered with its error and was
    /// not done. Whether this is possible: otherwise nothing is sent.
    pub(crate) fn go_with_next(&self, commands: &[&str]) -> bool {
        if !self.is_followed.load(Ordering::Acquire) {
            return false;
        }
        let mut frames = BytesMut::new();
        let encoded = commands.iter().try_for_each(|command| {
            frontend::parse("", command, [], &mut frames)?;
            let no_parameters = std::iter::empty::<()>();
            frontend::bind("", "", [], no_parameters, |(), _| unreachable!(), [], &mut frames)
                .map_err(|_| std::io::ErrorKind::InvalidInput)?;
            frontend::execute("", 0, &mut frames)
        });
        if encoded.is_err() {
            return false;
        }
        let commands = u32::try_from(commands.len()).unwrap_or(u32::MAX);
        let mut lead = self.lead();
        *lead = Some(Lead { frames, commands });
        self.has_lead.store(true, Ordering::Release);
        true
    }

    /// Takes back what was to go with the next request; whether it had not gone yet.
    pub(crate) fn take_back(&self) -> bool {
        self.take_lead().is_some()
    }

    fn take_lead(&self) -> Option<Lead> {
        if !self.has_lead.load(Ordering::Acquire) {
            return None;
        }
        // What is looked at without the lock changes under it alone.
        let mut lead = self.lead();
        self.has_lead.store(false, Ordering::Release);
        lead.take()
    }

    fn lead(&self) -> MutexGuard<'_, Option<Lead>> {
        self.lead.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether requests are to be sent in another way than the driver's.
    fn is_wanted(&self) -> bool {
        self.is_shared() || self.has_lead.load(Ordering::Acquire)
    }

    fn is_shared(&self) -> bool {
        self.is_shared.load(Ordering::Acquire)
    }
}

/// The requests that end with one Sync.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Run {
    /// Commands ahead of them that the driver knows nothing of.
    lead: u32,
    requests: u32,
}

impl Run {
    /// As the driver sent it.
    const PLAIN: Self = Self { lead: 0, requests: 1 };
}

/// The tag of a frame and its length, which counts itself and not the tag.
const HEAD: usize = 5;

/// The first frame and what follows it, if it is there as a whole.
fn whole(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&[_, ref length @ ..], _) = bytes.split_first_chunk::<HEAD>()?;
    bytes.split_at_checked(1 + u32::from_be_bytes(*length) as usize)
}
