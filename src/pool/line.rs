//! One pipeline: a connection that carries reads side by side, and the look-out for one that answers no more.
//!
//! There is no timer for each read, which would cost more than the rest of sending it: the line as a whole is looked at
//! now and then, for it answers in order.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::time::timeout;
use tokio_postgres::{Row, SimpleQueryMessage};

use super::pipelines::{MAX_BYTES, MAX_DEPTH};
use super::{Lent, Params};
use crate::Result;
use crate::shard::Home;
use crate::statement::Statement;

/// For how long a read may hold up others; the session is told.
pub(super) const LONGEST: Duration = Duration::from_millis(500);
/// What a pipeline's session is told. A read that waits for a lock holds up the others for 100 ms at most, and how long
/// several take together is nobody's limit. It answers whether reads may share a Sync.
const GREETING: &str = "SET lock_timeout = 100; SET default_transaction_read_only = on; \
    SELECT set_config(name, '0', false) FROM pg_settings WHERE name = 'transaction_timeout'; \
    SELECT current_setting('default_transaction_isolation') <> 'serializable'";
/// How often a line is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// How many looks in a row may find reads waiting and nothing answered. That is longer than as many as share a Sync may take:
/// the network or the server is at fault, or a reader that does not take its rows.
const PATIENCE: u32 = 6;

#[derive(Debug)]
pub(super) struct Line {
    lent: Lent,
    /// How many wait for an answer in the line's place, also on the one before it.
    depth: Arc<AtomicUsize>,
    sent: AtomicU64,
    /// The number of the last read that was answered, of those that were sent: all before it are, as answers come in order.
    answered: AtomicU64,
}

impl Line {
    /// Makes a pipeline of a lent connection; `None` if its server does not play along.
    pub(super) async fn open(lent: Lent, depth: Arc<AtomicUsize>) -> Option<Arc<Self>> {
        // From here on its session is not like those that are lent, also if nobody waits for the answer.
        lent.spend();
        lent.count_payload();
        let greeting = format!("SET statement_timeout = {}; {GREETING}", lent.tell_limit(LONGEST));
        let greeted = timeout(LOOK * PATIENCE, lent.client().simple_query(&greeting)).await;
        let answers = greeted.ok()?.ok()?;
        let mut rows = answers.iter().filter_map(|answer| match answer {
            SimpleQueryMessage::Row(row) => row.get(0),
            _ => None,
        });
        if rows.next_back() == Some("t") {
            lent.share_syncs();
        }
        let line =
            Arc::new(Self { lent, depth, sent: AtomicU64::new(0), answered: AtomicU64::new(0) });
        let watched = Arc::downgrade(&line);
        tokio::spawn(async move {
            let mut seen = Seen::default();
            loop {
                tokio::time::sleep(LOOK).await;
                let Some(line) = watched.upgrade() else { return };
                if seen.is_hung(&line) {
                    line.lent.cut();
                    return;
                }
            }
        });
        Some(line)
    }

    /// Whether it may be sent another read.
    pub(super) fn is_usable(&self, now: Instant) -> bool {
        !self.lent.client().is_closed() && self.lent.may_stay(now)
    }

    /// Whether its server is at work for as many as it may be, or has as much to take in; those included who have gone.
    pub(super) fn is_behind(&self) -> bool {
        let answered = self.answered.load(Ordering::Relaxed);
        self.sent.load(Ordering::Relaxed).saturating_sub(answered) >= MAX_DEPTH as u64
            || self.lent.under_way() >= MAX_BYTES
    }

    /// See [`Session::is_proven`](super::session::Session::is_proven).
    pub(super) fn is_proven(&self) -> bool {
        self.lent.is_proven()
    }

    /// See [`Session::prove`](super::session::Session::prove).
    pub(super) async fn prove(&self) -> bool {
        self.lent.prove().await
    }

    /// Counts a read that began at a time, and says how long it took.
    pub(super) fn count(&self, began: Instant) -> Duration {
        let took = began.elapsed();
        self.lent.tally().executed_on_a_pipeline(took);
        took
    }

    /// Reads. Where the line is found to hang, it fails as when the connection is lost.
    pub(super) async fn read(
        &self,
        statement: &Statement,
        home: &Home,
        params: Params<'_>,
    ) -> Result<(Vec<Row>, u64)> {
        let number = self.sent.fetch_add(1, Ordering::Relaxed) + 1;
        let answer = self.lent.send(statement, home, params).await;
        self.answered.fetch_max(number, Ordering::Relaxed);
        answer
    }
}

/// What the last look at a line saw.
#[derive(Debug, Default)]
struct Seen {
    sent: u64,
    answered: u64,
    heard: u64,
    silent: u32,
}

impl Seen {
    fn is_hung(&mut self, line: &Line) -> bool {
        let answered = line.answered.load(Ordering::Relaxed);
        // Those whose patience is shorter than the server's time have gone when it answers.
        let heard = line.lent.heard();
        let sent = line.sent.load(Ordering::Relaxed);
        // Those whose patience is short may come and go between two looks.
        let is_awaited = sent != self.sent || line.depth.load(Ordering::Relaxed) > 0;
        let silent = (answered, heard) == (self.answered, self.heard) && is_awaited;
        self.silent = if silent { self.silent + 1 } else { 0 };
        (self.sent, self.answered, self.heard) = (sent, answered, heard);
        self.silent >= PATIENCE
    }
}
