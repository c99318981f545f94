//! Making a slot waits for every transaction that has written on the server, prepared ones included, of whatever database. Who looks
//! on is told for whom.

use std::pin::pin;
use std::time::Duration;

use tokio::time::timeout;

use super::side::Side;
use crate::Result;

/// After which time something is told, and how often it is looked again: most transactions end before.
const TELL_AFTER: Duration = Duration::from_secs(1);

/// Waits until a slot is made on a server. `tell` hears which transaction is the oldest there.
pub(super) async fn awaited<T>(
    side: &Side,
    slot_made: impl Future<Output = Result<T>>,
    tell: impl Fn(&str) + Send + Sync,
) -> Result<T> {
    let mut slot_made = pin!(slot_made);
    let mut told = None;
    loop {
        if let Ok(made) = timeout(TELL_AFTER, slot_made.as_mut()).await {
            return made;
        }
        // Where that cannot be told, it is waited for all the same.
        let oldest = oldest(side).await.ok().flatten();
        if let Some(oldest) = oldest.as_ref().filter(|oldest| told.as_ref() != Some(*oldest)) {
            tell(&format!("{} waits for {oldest}, which has written", side.name));
        }
        told = oldest;
    }
}

async fn oldest(side: &Side) -> Result<Option<String>> {
    const OLDEST: &str = "SELECT who FROM ( \
            SELECT format('the session %s of %s in the database %s', pid, usename, datname), backend_xid \
                FROM pg_stat_activity WHERE backend_xid IS NOT NULL \
            UNION ALL SELECT format('the prepared transaction %L in the database %s (`howdah tx recover`)', gid, database), \
                transaction FROM pg_prepared_xacts \
        ) writers (who, xid) ORDER BY age(xid) DESC LIMIT 1";

    let row = side.watch.opt(OLDEST, &[], "cannot look for the oldest transaction").await?;
    Ok(row.map(|row| row.get(0)))
}
