//! The primary among several hosts: who it was last time is asked first, and where there is doubt, all are.

use std::pin::Pin;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::time::{Instant, timeout, timeout_at};

use super::standing::Reign;
use crate::config::Dsn;
use crate::error::Kind;
use crate::{Error, Result};

/// How long the host that was the primary last time is asked alone. A log-in takes a few milliseconds, or a few round trips
/// to far away.
const HEAD_START: Duration = Duration::from_millis(250);
/// How long the others may take when one has said that it is the primary: one may have been promoted since.
const SECOND_OPINION: Duration = Duration::from_millis(250);

/// A log-in to one host, which ends well when that is a primary.
pub(super) type Attempt<'a, T> = Pin<Box<dyn Future<Output = Result<(Reign, T)>> + Send + 'a>>;

/// Logs in to the primary: the favourite, if it answers at once; else whichever of the hosts was promoted last.
///
/// # Errors
///
/// What each host had to say; none when there are no hosts.
pub(super) async fn seek<'a, T>(
    favourite: Option<Attempt<'a, T>>,
    others: impl Iterator<Item = Attempt<'a, T>>,
) -> Result<T, Vec<Error>> {
    let mut asked: FuturesUnordered<_> = favourite.into_iter().collect();
    let mut failures = Vec::new();
    match timeout(HEAD_START, asked.next()).await {
        Ok(Some(Ok((_, found)))) => return Ok(found),
        Ok(Some(Err(error))) => failures.push(error),
        Ok(None) | Err(_) => {}
    }
    asked.extend(others);
    let (mut reign, mut found) = loop {
        match asked.next().await {
            Some(Ok(found)) => break found,
            Some(Err(error)) => failures.push(error),
            None => return Err(failures),
        }
    };
    let end = Instant::now() + SECOND_OPINION;
    while let Ok(Some(answer)) = timeout_at(end, asked.next()).await {
        if let Ok((other, also)) = answer
            && other.is_later_than(reign)
        {
            (reign, found) = (other, also);
        }
    }
    Ok(found)
}

/// Why there is no connection to a primary, in one error.
pub(super) fn no_primary(dsn: &Dsn, mut failures: Vec<Error>) -> Error {
    if dsn.hosts().len() < 2
        && let Some(failure) = failures.pop()
    {
        return failure;
    }
    // Where one of them may come back by itself, that is what matters.
    let kind = match failures.first().map(Error::kind) {
        Some(kind) if failures.iter().all(|failure| failure.kind() == kind) => kind,
        _ => Kind::Unavailable,
    };
    let reasons: Vec<_> = failures.iter().map(ToString::to_string).collect();
    Error::new(kind, "no primary among its hosts").because(reasons.join("; "))
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use tokio::time::sleep;

    use super::super::position::Timeline;
    use super::*;

    type Answer = Attempt<'static, &'static str>;

    fn primary(timeline: u32, name: &'static str, after: u64) -> Answer {
        Box::pin(async move {
            sleep(Duration::from_millis(after)).await;
            Ok((Reign { system: 1, timeline: Timeline::new(timeline) }, name))
        })
    }

    fn replica(name: &'static str) -> Answer {
        Box::pin(ready(Err(Error::new(Kind::Unavailable, name))))
    }

    #[tokio::test(start_paused = true)]
    async fn a_favourite_that_answers_is_asked_alone() {
        let others = [primary(2, "other", 0)].into_iter();
        assert_eq!(seek(Some(primary(1, "favourite", 100)), others).await.unwrap(), "favourite");
    }

    #[tokio::test(start_paused = true)]
    async fn of_two_primaries_the_one_that_was_promoted_later_is_taken() {
        let hosts = || [primary(1, "old", 1), replica("r"), primary(2, "new", 50)].into_iter();
        assert_eq!(seek(None, hosts()).await.unwrap(), "new");
        // Not so one that takes ever so long: connections are waited for.
        let slow = [primary(1, "old", 1), primary(2, "new", 500)].into_iter();
        assert_eq!(seek(None, slow).await.unwrap(), "old");
    }

    #[tokio::test(start_paused = true)]
    async fn a_favourite_that_is_silent_or_fails_does_not_keep_from_the_others() {
        for favourite in [Box::pin(pending()) as Answer, replica("demoted")] {
            let others = [replica("r"), primary(2, "new", 1)].into_iter();
            assert_eq!(seek(Some(favourite), others).await.unwrap(), "new");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_primary_everybody_is_quoted() {
        let failures = seek(None, [replica("one"), replica("two")].into_iter()).await.unwrap_err();
        let dsn: Dsn = "postgres://a@db1,db2/d".parse().unwrap();
        let error = no_primary(&dsn, failures);
        assert!(error.is_unavailable(), "{error}");
        assert!(error.to_string().contains("one; two"), "{error}");
    }
}
