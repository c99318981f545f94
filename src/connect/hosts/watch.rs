//! Looks at one host again and again, over a connection of its own.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::sight::Sight;
use super::{Host, Link, Seen, Standing, in_time};
use crate::Result;

/// How often a host is looked at, where nobody asks for more precision.
pub(super) const INTERVAL: Duration = Duration::from_secs(1);
/// How often at most: a few queries a second for each program are nothing to a server.
pub(super) const SHORTEST: Duration = Duration::from_millis(50);
/// How often while somebody waits for it to come further.
pub(super) const HURRY: Duration = Duration::from_millis(10);
/// How long somebody waits: as long as the primary may take to answer under load, and a replica to follow it.
pub(super) const PATIENCE: Duration = Duration::from_millis(500);
/// A replica that is further behind is not waited for.
const LATE: Duration = Duration::from_secs(5);
/// How long an answer may take before the host counts as silent.
const ANSWER: Duration = Duration::from_secs(1);
/// What the session is told: whatever it is that takes so long, nobody waits for it.
const GREETING: &str = "SET statement_timeout = 1000;";

/// Never ends.
pub(super) async fn run(seen: Arc<Seen>, host: usize) {
    let mut link = None;
    loop {
        let asked = Instant::now();
        let looked = look(&seen, host, &mut link).await;
        let answered = looked.is_ok();
        seen.note(host, asked, looked);
        seen.pause(host, answered).await;
    }
}

async fn look(seen: &Seen, host: usize, link: &mut Option<Link>) -> Result<Standing> {
    let Some(known) = link.take() else {
        let (made, standing) = Box::pin(seen.greet(host, GREETING, seen.connect_timeout())).await?;
        *link = Some(made);
        return Ok(standing);
    };
    let identity = seen.identity();
    let greeted = identity.greet(&known.client, "");
    let looked = in_time(&seen.hosts[host].target, ANSWER, greeted).await;
    match looked {
        Ok(_) => *link = Some(known),
        // It may not even take leave any more.
        Err(_) => known.driven.abort(),
    }
    looked
}

impl Seen {
    fn has_seen_all_but(&self, host: usize) -> bool {
        let is_unseen = |seen: &Host| matches!(*seen.sight.borrow(), Sight::Unseen);
        self.hosts.iter().enumerate().all(|(other, seen)| other == host || !is_unseen(seen))
    }

    /// Draws the conclusions from a look at a host.
    fn note(&self, host: usize, asked: Instant, looked: Result<Standing>) {
        let mut throne = self.throne();
        let before = *self.hosts[host].sight.borrow();
        let sight = match looked {
            Err(_) => Sight::Silent,
            Ok(Standing::Primary { reign, flushed, read_only }) => {
                if !read_only {
                    throne.hear(reign);
                }
                // While the known primary answers, only one that was promoted later takes its place; and while none is known,
                // everybody has to be heard.
                let has_a_claim = match throne.reign {
                    Some(known) => reign.is_later_than(known),
                    None => self.has_seen_all_but(host),
                };
                let rival = throne.host.filter(|rival| *rival != host);
                let rival = rival.is_some_and(|rival| {
                    matches!(*self.hosts[rival].sight.borrow(), Sight::Primary)
                });
                let reigns = !read_only && (has_a_claim || throne.reign.is_some() && !rival);
                if reigns && throne.crown(&self.hosts, host, reign, &self.identity).is_ok() {
                    throne.history.note(asked, flushed);
                }
                Sight::Primary
            }
            Ok(Standing::Replica { replayed: None, .. }) => Sight::Silent,
            Ok(Standing::Replica { timeline, replayed: Some(replayed) }) => {
                if throne.host == Some(host) {
                    throne.depose();
                }
                let known = throne.reign.map(|reign| reign.timeline);
                let fresh_before = match before {
                    Sight::Replica { fresh_at, .. } => fresh_at,
                    _ => None,
                };
                // What it had it has for ever.
                let fresh_at = throne.history.covered_by(replayed).max(fresh_before);
                let late_since = fresh_at.or(throne.history.begin());
                Sight::Replica {
                    timeline: timeline.filter(|_| timeline >= known),
                    replayed,
                    fresh_at,
                    is_late: late_since.is_some_and(|since| since.elapsed() > LATE),
                }
            }
        };
        drop(throne);
        self.hosts[host].sight.send_replace(sight);
    }

    async fn pause(&self, host: usize, answered: bool) {
        let Host { awaited, wake, .. } = &self.hosts[host];
        let pause = match awaited.load(Ordering::Relaxed) {
            // Who does not answer is not besieged.
            _ if !answered => return tokio::time::sleep(INTERVAL).await,
            0 => self.precision.interval(),
            _ => HURRY,
        };
        let _ = timeout(pause, wake.notified()).await;
    }
}
