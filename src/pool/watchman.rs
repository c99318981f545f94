//! One task for each pool that looks after those who wait for a connection, as long as anybody does.
//!
//! It runs where the first of them does. Where that runtime ends before the wait of others, one of these starts another.

use std::future::poll_fn;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use tokio::time::Instant as Clock;

use super::gate::{Gate, Slot, Watch};
use super::pipelines::{IDLE, Pipelines};
use crate::Result;

/// Waits for a slot, and perhaps gets a session with it; see [`Gate::enter`]. Idle pipelines give up theirs for it.
pub(super) async fn enter<S: Send + 'static>(
    gate: &Arc<Gate<S>>,
    pipelines: &Arc<Pipelines>,
    asked: Instant,
    patience: Duration,
) -> Result<(Slot<S>, Option<S>)> {
    let mut entering = gate.enter(asked, patience);
    poll_fn(|context| {
        let entered = entering.poll_unpin(context);
        if entered.is_pending()
            && let Some(watch) = gate.watch()
        {
            tokio::spawn(look_after(watch, Arc::downgrade(pipelines)));
        }
        entered
    })
    .await
}

/// Tells those who have waited for too long, and has idle pipelines give up their connections for those who wait.
async fn look_after<S>(mut watch: Watch<S>, pipelines: Weak<Pipelines>) {
    let mut next = Clock::now().into_std();
    loop {
        let now = Clock::now().into_std();
        let is_time = next <= now;
        if is_time {
            next = now + IDLE;
        }
        let Some((waiting, look)) = watch.look(now, next) else { return };
        // Of a pool that is gone nobody waits for anything.
        if is_time && let Some(pipelines) = pipelines.upgrade() {
            pipelines.give_up_idle_ones(waiting);
        }
        watch.pause(look).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

    use tokio::time::timeout;

    use super::*;
    use crate::error::Phase;

    const LONG: Duration = Duration::from_secs(60);

    struct Waiting<S> {
        gate: Arc<Gate<S>>,
        pipelines: Arc<Pipelines>,
    }

    impl<S: Send + 'static> Waiting<S> {
        fn at(size: u32) -> Arc<Self> {
            let pipelines = Arc::new(Pipelines::new(0));
            Arc::new(Self { gate: Gate::new(size, 1000, Duration::from_secs(60)), pipelines })
        }

        async fn enter(&self, patience: Duration) -> Result<(Slot<S>, Option<S>)> {
            let now = Clock::now().into_std();
            enter(&self.gate, &self.pipelines, now, patience).await
        }
    }

    #[tokio::test(start_paused = true)]
    async fn each_is_told_when_its_own_time_is_over() {
        let all = Waiting::<()>::at(1);
        let held = all.enter(LONG).await.unwrap();
        let waits = [3, 400, 5, 30, 1000, 31].map(|millis| {
            let all = all.clone();
            tokio::spawn(async move {
                let (began, patience) = (Clock::now(), Duration::from_millis(millis));
                let late = all.enter(patience).await.unwrap_err();
                assert!(late.is_timeout() && late.phase() == Some(Phase::Queue), "{late}");
                let took = began.elapsed();
                assert!(took >= patience && took < patience + Duration::from_millis(5), "{took:?}");
            })
        });
        for wait in waits {
            wait.await.unwrap();
        }
        tokio::time::sleep(2 * IDLE).await;
        assert!(all.gate.watch().is_some(), "nobody waits, so nobody is on duty");
        drop(held);
        assert_eq!((all.gate.waiting().0, all.gate.inside()), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_patience_without_end_has_none() {
        let all = Waiting::<()>::at(1);
        let (slot, _) = all.enter(LONG).await.unwrap();
        let waiting = tokio::spawn({
            let all = all.clone();
            async move { all.enter(Duration::MAX).await.map(drop) }
        });
        tokio::time::sleep(100 * LONG).await;
        assert!(!waiting.is_finished());
        drop(slot);
        waiting.await.unwrap().unwrap();
    }

    #[test]
    fn who_waits_on_another_runtime_is_told_after_the_watchmans_has_ended() {
        let all = Waiting::<()>::at(1);
        let slot = all.gate.try_enter().unwrap();
        let runtime =
            || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (first, second) = (runtime(), runtime());
        let waiting = first.spawn({
            let all = all.clone();
            async move { all.enter(LONG).await.map(drop) }
        });
        first.block_on(tokio::task::yield_now());
        assert!(all.gate.waiting().0 == 1 && all.gate.watch().is_none());
        let there = all.clone();
        let other = std::thread::spawn(move || {
            second
                .block_on(there.enter(Duration::from_millis(200)).map(|entered| entered.map(drop)))
        });
        while all.gate.waiting().0 < 2 {
            std::thread::yield_now();
        }
        drop(first);
        let late = other.join().unwrap().unwrap_err();
        assert!(late.is_timeout(), "{late}");
        drop((waiting, slot));
        assert_eq!((all.gate.waiting().0, all.gate.inside()), (0, 0));
    }

    /// Sessions go in and out as bb8 has them: on top of each other where nobody uses them, and made where there is none.
    #[derive(Default)]
    struct Sessions {
        idle: Mutex<Vec<u32>>,
        in_use: [AtomicBool; 4],
        made: AtomicU32,
    }

    /// Goes back when dropped.
    struct Session(u32, Arc<Sessions>);

    impl Session {
        fn get(from: &Arc<Sessions>) -> Self {
            let idle = from.idle.lock().unwrap().pop();
            Self(idle.unwrap_or_else(|| from.made.fetch_add(1, Relaxed)), from.clone())
        }
    }

    impl Drop for Session {
        fn drop(&mut self) {
            self.1.idle.lock().unwrap().push(self.0);
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn under_load_each_session_is_one_tasks_alone_and_there_are_no_more_than_slots() {
        let all = Waiting::at(4);
        let sessions = Arc::new(Sessions::default());
        let tasks: Vec<_> = (0..40_u64)
            .map(|task| {
                let (all, sessions) = (all.clone(), sessions.clone());
                tokio::spawn(async move {
                    let mut served = 0;
                    for turn in 0..250 {
                        let patience = match (task + turn) % 5 {
                            0 => Duration::from_millis((task + turn) % 4),
                            _ => LONG,
                        };
                        let entering = all.enter(patience);
                        let entered = match (task * turn) % 7 {
                            0 => timeout(Duration::from_millis(1), entering).await.ok(),
                            _ => Some(entering.await),
                        };
                        let Some(Ok((mut slot, handed))) = entered else { continue };
                        served += 1;
                        let session = handed.unwrap_or_else(|| Session::get(&sessions));
                        let in_use = &sessions.in_use[session.0 as usize];
                        assert!(!in_use.swap(true, Relaxed), "it is somebody else's");
                        tokio::task::yield_now().await;
                        in_use.store(false, Relaxed);
                        // Not every session is fit to be handed over.
                        let is_fit = turn % 9 != 0;
                        drop(if is_fit { slot.hand_over(session) } else { Some(session) });
                    }
                    served
                })
            })
            .collect();
        for task in tasks {
            assert!(task.await.unwrap() > 100);
        }
        assert_eq!((all.gate.waiting().0, all.gate.inside()), (0, 0));
        let idle = sessions.idle.lock().unwrap().len();
        assert_eq!(idle, sessions.made.load(Relaxed) as usize);
    }
}
