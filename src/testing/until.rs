//! Waiting for what comes by itself.

use std::fmt::Debug;
use std::time::Duration;

use tokio::time::{sleep, timeout};

/// Far longer than anything takes, on a machine that does much else too.
const PATIENCE: Duration = Duration::from_secs(60);

/// Between two looks: no load for whoever is waited for.
const PAUSE: Duration = Duration::from_millis(15);

/// Looks again and again, for up to a minute, until what is waited for is there, and returns it.
///
/// A look answers whether it is there: as a `bool`; as an `Option` or a `Result` that holds it; or as a `bool` with what was
/// seen.
///
/// # Panics
///
/// When it is not there within a minute, with what was seen last.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> howdah::Result<()> {
/// use howdah::testing::{TestCluster, until};
///
/// let test = TestCluster::start().await?;
/// let cluster = howdah::Cluster::connect(test.config().min_idle(2)).await?;
/// until("two connections are kept warm", async || {
///     let pool = cluster.stats().remove(0);
///     (pool.idle == 2, pool)
/// })
/// .await;
/// # Ok(())
/// # }
/// ```
#[allow(clippy::panic, reason = "a test that waits in vain has failed")]
pub async fn until<L: Look>(what: &str, mut look: impl AsyncFnMut() -> L) -> L::Found {
    let mut last = String::new();
    let found = timeout(PATIENCE, async {
        loop {
            match look().await.found() {
                Ok(found) => return found,
                Err(seen) => last = seen,
            }
            sleep(PAUSE).await;
        }
    })
    .await;
    found.unwrap_or_else(|_| panic!("a minute has passed, and not yet: {what}. {last}"))
}

/// What a look of [`until`] answers.
pub trait Look: sealed::Sealed {
    /// What was waited for.
    type Found;

    /// What was waited for, or else what there is instead, in words.
    ///
    /// # Errors
    ///
    /// When it is not there yet.
    #[doc(hidden)]
    fn found(self) -> Result<Self::Found, String>;
}

impl Look for bool {
    type Found = ();

    fn found(self) -> Result<(), String> {
        if self { Ok(()) } else { Err(String::new()) }
    }
}

impl<T: Debug> Look for (bool, T) {
    type Found = T;

    fn found(self) -> Result<T, String> {
        if self.0 { Ok(self.1) } else { Err(format!("Last seen: {:?}", self.1)) }
    }
}

impl<T> Look for Option<T> {
    type Found = T;

    fn found(self) -> Result<T, String> {
        self.ok_or_else(String::new)
    }
}

impl<T, E: Debug> Look for Result<T, E> {
    type Found = T;

    fn found(self) -> Result<T, String> {
        self.map_err(|error| format!("Last seen: {error:?}"))
    }
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for bool {}
    impl<T> Sealed for (bool, T) {}
    impl<T> Sealed for Option<T> {}
    impl<T, E> Sealed for Result<T, E> {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_comes_is_returned() {
        let mut looks = 0;
        let mut look = async || {
            looks += 1;
            looks
        };
        assert_eq!(
            until("the third", async || (look().await == 3).then_some("there")).await,
            "there"
        );
        let n = until("the sixth", async || {
            let n = look().await;
            (n == 6, n)
        });
        assert_eq!(n.await, 6);
        until("the ninth", async || look().await == 9).await;
        assert_eq!(until("it goes well", async || Ok::<_, String>(look().await)).await, 10);
    }

    #[tokio::test(start_paused = true)]
    #[should_panic(expected = "not yet: all seven. Last seen: 6")]
    async fn what_does_not_come_is_named_with_what_there_is_instead() {
        until("all seven", async || (false, 6)).await;
    }

    #[tokio::test(start_paused = true)]
    #[should_panic(expected = "not yet: an answer")]
    async fn a_look_that_hangs_is_given_up_too() {
        until("an answer", std::future::pending::<bool>).await;
    }
}
