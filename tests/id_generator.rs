//! The generator of this process: unique and increasing, whatever the clock and the threads do.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may panic wherever it likes")]

use std::collections::HashSet;
use std::sync::Mutex;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use howdah::{Generator, Id, Layout, NoId, ShardId};
use proptest::prelude::*;

fn shard() -> ShardId {
    ShardId::new(42).unwrap()
}

fn generator() -> Generator {
    Generator::for_sole_owner(Layout::default(), shard()).unwrap()
}

/// A moment, so many milliseconds after an arbitrary one.
fn at(ms: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(1_700_000_000_000 + ms)
}

#[test]
fn an_id_carries_the_clock_and_the_shard() {
    let parts = Layout::default().decode(generator().next_id(at(0)).unwrap());
    assert_eq!((parts.shard, parts.unix_ms, parts.sequence), (shard(), 1_700_000_000_000, 0));
}

#[test]
fn threads_share_it_without_a_repetition() {
    let ids = generator();
    let all = Mutex::new(HashSet::new());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut mine: Vec<Id> = Vec::new();
                while mine.len() < 50_000 {
                    match ids.next_id(SystemTime::now()) {
                        Ok(id) => mine.push(id),
                        Err(NoId::Wait(time)) => std::thread::sleep(time),
                        Err(none) => panic!("{none:?}"),
                    }
                }
                assert!(mine.is_sorted_by(|a, b| a < b));
                all.lock().unwrap().extend(mine);
            });
        }
    });
    assert_eq!(all.into_inner().unwrap().len(), 200_000);
}

#[test]
fn a_burst_gets_a_second_ahead_and_is_told_how_long_to_wait() {
    let ids = generator();
    let made = std::iter::from_fn(|| ids.next_id(at(0)).ok()).count();
    assert_eq!(made, 1000 * 1024 + 1, "a second's worth of ticks and the clock's own");
    assert_eq!(ids.next_id(at(0)), Err(NoId::Wait(Duration::from_millis(1))));
    assert!(ids.next_id(at(1)).is_ok());
}

#[test]
fn a_clock_set_back_waits_and_never_repeats() {
    let ids = generator();
    let last = ids.next_id(at(10_000)).unwrap();
    assert_eq!(ids.next_id(at(0)), Err(NoId::Wait(Duration::from_millis(9_001))));
    assert_eq!(ids.next_id(UNIX_EPOCH), ids.next_id(UNIX_EPOCH), "no id is lost by a refusal");
    assert!(ids.next_id(at(9_001)).unwrap() > last);
}

#[test]
fn a_restart_goes_on_behind_the_last_id() {
    let before = generator();
    let last = before.next_id(at(500)).unwrap();
    assert_eq!(before.last(), last);
    let after = Generator::resume(Layout::default(), last);
    assert_eq!(after.shard(), shard());
    assert!(after.next_id(at(0)).unwrap() > last, "though the clock was set back meanwhile");
}

#[test]
fn the_layout_ends_with_an_error_and_no_overflow() {
    let layout = Layout::default();
    let end = SystemTime::from(layout.ends_at());
    let ids = Generator::for_sole_owner(layout, shard()).unwrap();
    let last = std::iter::from_fn(|| ids.next_id(end).ok()).last().unwrap();
    assert_eq!(layout.decode(last).time(), layout.ends_at());
    assert_eq!(ids.next_id(end), Err(NoId::Ended));
    assert_eq!(generator().next_id(end + Duration::from_millis(1)), Err(NoId::Ended));
    let error = howdah::Error::from(NoId::Ended);
    assert!(error.is_refused(), "{error}");
}

#[test]
fn a_shard_that_the_layout_has_no_room_for_is_refused() {
    let narrow = Layout::new(0, 4, 10).unwrap();
    assert!(Generator::for_sole_owner(narrow, shard()).unwrap_err().is_invalid_input());
}

proptest! {
    /// Whatever the clock says, ids increase, and none is more than a second ahead of the clock it was made by.
    #[test]
    fn any_clock_gives_increasing_ids(clock in prop::collection::vec(0_u64..3_000, 1..200)) {
        let (ids, layout) = (generator(), Layout::default());
        let mut last = None;
        for ms in clock {
            if let Ok(id) = ids.next_id(at(ms)) {
                prop_assert!(Some(id) > last);
                let made = layout.decode(id).unix_ms.unsigned_abs() - 1_700_000_000_000;
                prop_assert!((ms..=ms + 1000).contains(&made), "{} at {}", made, ms);
                last = Some(id);
            }
        }
    }
}
