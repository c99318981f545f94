//! A copy heeds replicas: it slows down while a configured host of either instance is far behind its primary.
//!
//! What is copied goes to the target's replicas too, and what it takes from the source's disk is lacking to those that read WAL
//! there. A replica that gets on is waited for as long as it takes; one that has stood still for a while, or cannot be asked, is
//! not: slowing down does not help it, and nobody should have to guess why a copy stands. The cutover waits for both, and says so.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tokio_postgres::types::PgLsn;

use super::hosts::{Hosts, Replica};
use super::run::Run;
use super::step::MoveStep;
use crate::Result;

/// How far a replica may be behind, by default: four segments of WAL, which one that is well replays in about a second.
pub(super) const MAX_LAG: u64 = 64 << 20;
/// How often they are asked.
const ASK_AGAIN: Duration = Duration::from_millis(500);
/// For how long one may stand still before nothing is held up for it any more.
const STANDS_STILL: Duration = Duration::from_secs(60);

/// Remembers how far replicas were. Pure.
#[derive(Debug)]
struct Heed {
    max_lag: u64,
    /// Those that are too far behind: up to where they had replayed, and when they came there.
    behind: BTreeMap<String, (PgLsn, Instant)>,
}

/// What becomes of the rows.
#[derive(Debug, PartialEq, Eq)]
struct Verdict {
    waits: bool,
    /// Why, or why not although there would be reason to.
    why: Vec<String>,
}

impl Heed {
    fn new(max_lag: u64) -> Self {
        Self { max_lag, behind: BTreeMap::new() }
    }

    fn judge(&mut self, replicas: &[Replica], now: Instant) -> Verdict {
        let mut verdict = Verdict { waits: false, why: Vec::new() };
        for Replica { address, lag } in replicas {
            let (bytes, replayed) = match lag {
                Ok(lag) => *lag,
                Err(reason) => {
                    self.behind.remove(address);
                    verdict.why.push(format!(
                        "{address} cannot be asked how far behind it is ({reason}): the copy goes on, and the cutover will \
                         wait for it"
                    ));
                    continue;
                }
            };
            if bytes <= self.max_lag {
                self.behind.remove(address);
                continue;
            }
            let known = self.behind.entry(address.clone()).or_insert((replayed, now));
            if known.0 != replayed {
                *known = (replayed, now);
            }
            let mebibytes = self.max_lag >> 20;
            if now.duration_since(known.1) < STANDS_STILL {
                verdict.waits = true;
                verdict.why.push(format!(
                    "waits for {address}, which is more than {mebibytes} MiB behind"
                ));
            } else {
                verdict.why.push(format!(
                    "{address} is more than {mebibytes} MiB behind and replays nothing: the copy goes on, and the cutover \
                     will wait for it"
                ));
            }
        }
        verdict
    }
}

/// The hosts of a move that rows wait for.
pub(super) struct Heeding<'a> {
    run: &'a Run<'a>,
    hosts: [Hosts<'a>; 2],
    heed: Heed,
    waits: watch::Sender<bool>,
    told: Vec<String>,
}

impl<'a> Heeding<'a> {
    /// Looks at them for the first time.
    pub(super) async fn begin(run: &'a Run<'a>) -> Result<Self> {
        let connector = &run.mover.connector;
        let hosts = [
            Hosts::connect(connector, &run.source).await,
            Hosts::connect(connector, &run.target).await,
        ];
        let heed = Heed::new(run.mover.max_lag);
        let (waits, told) = (watch::Sender::new(false), Vec::new());
        let mut heeding = Self { run, hosts, heed, waits, told };
        heeding.look().await?;
        Ok(heeding)
    }

    /// Whether rows wait just now.
    pub(super) fn waits(&self) -> watch::Receiver<bool> {
        self.waits.subscribe()
    }

    /// Looks at them again and again.
    pub(super) async fn go_on(mut self) -> Result<Infallible> {
        loop {
            sleep(ASK_AGAIN).await;
            self.look().await?;
        }
    }

    async fn look(&mut self) -> Result<()> {
        let mut replicas = Vec::new();
        for hosts in &mut self.hosts {
            replicas.extend(hosts.replicas().await?);
        }
        let verdict = self.heed.judge(&replicas, Instant::now());
        for why in verdict.why.iter().filter(|why| !self.told.contains(why)) {
            self.run.tell(MoveStep::CopyRows, why);
        }
        self.told = verdict.why;
        self.waits.send_replace(verdict.waits);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replica(lag: u64, replayed: u64) -> Replica {
        Replica { address: "pg1: host a:1".into(), lag: Ok((lag, PgLsn::from(replayed))) }
    }

    fn judged(heed: &mut Heed, replica: Replica, now: Instant) -> (bool, String) {
        let verdict = heed.judge(&[replica], now);
        (verdict.waits, verdict.why.concat())
    }

    #[test]
    fn who_is_close_behind_is_not_waited_for() {
        let verdict = Heed::new(100).judge(&[replica(100, 1), replica(0, 9)], Instant::now());
        assert_eq!(verdict, Verdict { waits: false, why: Vec::new() });
    }

    #[test]
    fn who_gets_on_is_waited_for_and_who_stands_still_is_not_for_long() {
        let (mut heed, began) = (Heed::new(100), Instant::now());
        for (seconds, replayed) in [(0, 1), (50, 2), (100, 3), (159, 3)] {
            let now = began + Duration::from_secs(seconds);
            let (waits, why) = judged(&mut heed, replica(101, replayed), now);
            assert!(waits && why.contains("waits for pg1: host a:1"), "{seconds}: {why}");
        }
        let late = began + Duration::from_secs(160);
        let (waits, why) = judged(&mut heed, replica(101, 3), late);
        assert!(!waits && why.contains("replays nothing"), "{why}");
        assert!(judged(&mut heed, replica(101, 4), late).0, "it gets on again");
    }

    #[test]
    fn who_cannot_be_asked_is_named_and_not_waited_for() {
        let lost = Replica { address: "pg1: host a:1".into(), lag: Err("refused".into()) };
        let (waits, why) = judged(&mut Heed::new(100), lost, Instant::now());
        assert!(!waits && why.contains("host a:1") && why.contains("(refused)"), "{why}");
    }

    #[test]
    fn one_that_lags_is_enough() {
        let lost = Replica { address: "b".into(), lag: Err("refused".into()) };
        let verdict = Heed::new(100).judge(&[lost, replica(101, 1)], Instant::now());
        assert!(verdict.waits);
        assert_eq!(verdict.why.len(), 2);
    }
}
