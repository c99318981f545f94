//! The rows of a table on their way from one server to the other.

use std::pin::pin;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::{SinkExt, TryStreamExt};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

use super::names::{ident, literal};
use super::session::Session;
use crate::error::Kind;
use crate::{Error, Result};

/// How many bytes are handed on at once: enough that handing on costs nothing, and few enough for any limit.
const PORTION: usize = 64 << 10;
/// How long a portion waits at most where others are to catch up. Where nothing moved at all, the reader's server would take its
/// client for dead (`tcp_user_timeout`).
const CRAWL: Duration = Duration::from_secs(1);
/// How long rows may stand still before the copy is given up.
const STANDSTILL: Duration = Duration::from_secs(60);

/// How fast rows may go, all copies of a mover together.
#[derive(Debug, Default)]
pub(super) struct Pace {
    bytes_per_second: Option<u64>,
    /// When what was let through until now is due.
    next: Mutex<Option<Instant>>,
}

impl Pace {
    pub(super) fn limited_to(bytes_per_second: u64) -> Self {
        Self { bytes_per_second: Some(bytes_per_second.max(1)), next: Mutex::default() }
    }

    /// Waits until so many bytes more may go.
    async fn allow(&self, bytes: usize) {
        let Some(rate) = self.bytes_per_second else { return };
        let due = {
            let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
            let now = Instant::now();
            let due = next.map_or(now, |next| next.max(now));
            *next = Some(due + Duration::from_secs_f64(bytes as f64 / rate as f64));
            due
        };
        sleep_until(due).await;
    }
}

/// What rows wait for on their way.
pub(super) struct Brakes<'a> {
    pub(super) pace: &'a Pace,
    /// Whether somebody else is to catch up.
    pub(super) waits: watch::Receiver<bool>,
}

impl Brakes<'_> {
    /// Waits until so many bytes more may go.
    async fn allow(&self, bytes: usize) {
        self.pace.allow(bytes).await;
        // Whoever holds the other end is gone when nothing is to be waited for.
        let _ = timeout(CRAWL, self.waits.clone().wait_for(|waits| !waits)).await;
    }
}

/// How much of a table has been handed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Poured {
    pub(super) rows: u64,
    pub(super) bytes: u64,
}

/// Who is told how much of a table is on its way.
pub(super) trait Watch: Send {
    fn tell(&mut self, poured: Poured);
}

/// Copies the rows that `from` sees of a table into that of `to`, which was made in its transaction. Text, which every type and
/// every version understands, in the servers' own encoding, which is the same. When they are read, `from` lets go of the table.
pub(super) async fn pour(
    from: &Session,
    to: &Session,
    table: &str,
    (columns, encoding): (&[String], &str),
    brakes: &Brakes<'_>,
    watch: &mut impl Watch,
) -> Result<Poured> {
    let columns: Vec<_> = columns.iter().map(|column| ident(column)).collect();
    let (columns, encoding) = (columns.join(", "), literal(encoding));
    let what = format!("cannot copy the rows of {table}");
    let failed = |session: &Session, error| session.failure(error, &what);
    let stood_still =
        || Error::new(Kind::Timeout, format!("{what}: nothing came for {STANDSTILL:?}"));

    let (out, into) = (
        format!("COPY {table} ({columns}) TO STDOUT (ENCODING {encoding})"),
        format!("COPY {table} ({columns}) FROM STDIN (FREEZE, ENCODING {encoding})"),
    );
    // A transaction keeps the locks of all that it has read. Without this, whoever wants one of these tables for himself would wait
    // for the last of them.
    from.batch("SAVEPOINT table_begun", &what).await?;
    let out = timeout(STANDSTILL, from.copy_out(&out)).await.map_err(|_| stood_still())?;
    let mut rows = pin!(out.map_err(|error| failed(from, error))?);
    let mut sink = pin!(to.copy_in::<Bytes>(&into).await.map_err(|error| failed(to, error))?);

    let mut poured = Poured::default();
    let mut is_over = false;
    while !is_over {
        let mut portion = BytesMut::with_capacity(PORTION);
        let fill = async {
            while portion.len() < PORTION {
                // One message is one row.
                let Some(row) = rows.try_next().await? else { return Ok(true) };
                poured.rows += 1;
                portion.extend_from_slice(&row);
            }
            Ok(false)
        };
        let filled = timeout(STANDSTILL, fill).await.map_err(|_| stood_still())?;
        is_over = filled.map_err(|error| failed(from, error))?;
        poured.bytes += portion.len() as u64;
        brakes.allow(portion.len()).await;
        let sent = timeout(STANDSTILL, sink.send(portion.freeze())).await;
        sent.map_err(|_| stood_still())?.map_err(|error| failed(to, error))?;
        watch.tell(poured);
    }
    from.batch("ROLLBACK TO table_begun", &what).await?;
    let taken = sink.finish().await.map_err(|error| failed(to, error))?;
    if taken != poured.rows {
        return Err(Error::system(format!("{what}: {} were read and {taken} taken", poured.rows)));
    }
    Ok(poured)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_pace_is_kept_by_all_together() {
        let pace = Pace::limited_to(1_000);
        let began = Instant::now();
        let one = async {
            for _ in 0..5 {
                pace.allow(500).await;
            }
        };
        tokio::join!(one, async {
            for _ in 0..5 {
                pace.allow(500).await;
            }
        });
        // The last of ten portions begins when nine are through.
        let took = began.elapsed();
        assert!((4_500..4_600).contains(&took.as_millis()), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_not_used_is_not_saved_up() {
        let pace = Pace::limited_to(1_000);
        pace.allow(1).await;
        tokio::time::sleep(Duration::from_secs(60)).await;
        let began = Instant::now();
        pace.allow(2_000).await;
        pace.allow(1).await;
        assert!(began.elapsed() >= Duration::from_secs(2));
    }

    #[tokio::test(start_paused = true)]
    async fn rows_crawl_while_others_are_to_catch_up() {
        let waits = watch::Sender::new(true);
        let brakes = Brakes { pace: &Pace::default(), waits: waits.subscribe() };
        let began = Instant::now();
        for _ in 0..3 {
            brakes.allow(PORTION).await;
        }
        assert_eq!(began.elapsed(), 3 * CRAWL);
        tokio::join!(brakes.allow(PORTION), async {
            waits.send_replace(false);
        });
        drop(waits);
        brakes.allow(PORTION).await;
        assert_eq!(began.elapsed(), 3 * CRAWL, "who may go on does so at once");
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_limit_nothing_waits() {
        let (pace, began) = (Pace::default(), Instant::now());
        pace.allow(usize::MAX).await;
        assert_eq!(began.elapsed(), Duration::ZERO);
    }
}
