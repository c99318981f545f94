//! The clock's time in milliseconds since 1970, remembered.
//!
//! Taking a `SystemTime` apart costs more than all else that an id is made of, and more than a thousand ids may be of the same
//! millisecond: comparing it with where the last one began and ended costs almost nothing.

use std::cell::Cell;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A millisecond that this thread has worked out.
#[derive(Clone, Copy)]
struct Millisecond {
    from: SystemTime,
    to: SystemTime,
    unix_ms: u64,
}

thread_local! {
    static LAST: Cell<Millisecond> =
        const { Cell::new(Millisecond { from: UNIX_EPOCH, to: UNIX_EPOCH, unix_ms: 0 }) };
}

/// Whole milliseconds since 1970: 0 before, and at most as many as the type holds.
#[inline]
pub(super) fn unix_ms(time: SystemTime) -> u64 {
    let last = LAST.get();
    if last.from <= time && time < last.to { last.unix_ms } else { work_out(time) }
}

#[cold]
fn work_out(time: SystemTime) -> u64 {
    let Ok(unix) = time.duration_since(UNIX_EPOCH) else { return 0 };
    let unix_ms = u64::try_from(unix.as_millis()).unwrap_or(u64::MAX);
    let from = UNIX_EPOCH.checked_add(Duration::from_millis(unix_ms));
    let to = from.and_then(|from| from.checked_add(Duration::from_millis(1)));
    if let (Some(from), Some(to)) = (from, to) {
        LAST.set(Millisecond { from, to, unix_ms });
    }
    unix_ms
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Times close to each other and far apart, forwards and back: as if each was taken apart by itself.
        #[test]
        fn what_is_remembered_changes_nothing(
            start in 0_u64..1 << 60,
            steps in proptest::collection::vec(
                prop_oneof![-3_000_000_i64..3_000_000, any::<i32>().prop_map(i64::from), any::<i64>()],
                1..50,
            ),
        ) {
            let mut time = UNIX_EPOCH + Duration::from_nanos(start);
            for step in steps {
                let by = Duration::from_nanos(step.unsigned_abs());
                let stepped = if step < 0 { time.checked_sub(by) } else { time.checked_add(by) };
                time = stepped.unwrap_or(time);
                let expected = time.duration_since(UNIX_EPOCH).map_or(0, |unix| unix.as_millis());
                prop_assert_eq!(u128::from(unix_ms(time)), expected);
            }
        }
    }

    #[test]
    fn the_ends_of_time_are_told_without_a_panic() {
        let last = UNIX_EPOCH + Duration::new(i64::MAX.unsigned_abs(), 999_999_999);
        assert_eq!(unix_ms(last), u64::MAX);
        assert_eq!(unix_ms(UNIX_EPOCH - Duration::from_nanos(1)), 0);
        assert_eq!(unix_ms(UNIX_EPOCH), 0);
    }
}
