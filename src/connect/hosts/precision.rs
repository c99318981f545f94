//! How often hosts are looked at: as often as those need who read from replicas, for as long as they do.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::watch::INTERVAL;

/// How long after the last who needed it hosts are looked at that often.
const KEPT: Duration = Duration::from_secs(10);

#[derive(Debug, Default)]
pub(super) struct Precision(Mutex<Option<Wanted>>);

#[derive(Debug, Clone, Copy)]
struct Wanted {
    interval: Duration,
    until: Instant,
}

impl Precision {
    /// Says how often is often enough for a read.
    pub(super) fn want(&self, interval: Duration) {
        if interval >= INTERVAL {
            return;
        }
        let now = Instant::now();
        let mut wanted = self.lock();
        let kept = wanted.filter(|wanted| wanted.until > now);
        let interval = kept.map_or(interval, |wanted| wanted.interval.min(interval));
        *wanted = Some(Wanted { interval, until: now + KEPT });
    }

    /// How often hosts have to be looked at now.
    pub(super) fn interval(&self) -> Duration {
        let wanted = self.lock().filter(|wanted| wanted.until > Instant::now());
        wanted.map_or(INTERVAL, |wanted| wanted.interval)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Wanted>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_is_kept_while_it_is_needed_and_no_longer() {
        let precision = Precision::default();
        let often = Duration::from_millis(50);
        precision.want(Duration::from_secs(8));
        assert_eq!(precision.interval(), INTERVAL);
        precision.want(often);
        tokio::time::advance(KEPT / 2).await;
        precision.want(2 * often);
        tokio::time::advance(KEPT / 2).await;
        assert_eq!(precision.interval(), often);
        tokio::time::advance(KEPT / 2).await;
        assert_eq!(precision.interval(), INTERVAL);
    }
}
