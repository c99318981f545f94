//! Files that no photo names: noted on the photo's shard first, and removed from the store then.
//!
//! What is done to the store can be cut off half-way, by a crash or a disk that fails, and no transaction takes it
//! back. So a file is noted before it is stored, and the transaction that gives it to a photo takes the note back; the one that
//! removes the photo notes it again. Whatever is still noted when it is due is removed by [`sweep`].

use howdah::{Result, Shard, Statement, Tx};

use crate::App;
use crate::store::{MediaKey, Store};

/// How many files of a shard are removed in one sweep, so that no shard holds up the others; the rest waits for the next.
const BATCH: i64 = 500;

/// Notes files that are about to be stored. They have an hour to become a photo's, which takes seconds.
pub(crate) async fn note(shard: &Shard, files: &[MediaKey]) -> Result<()> {
    const NOTE: Statement = Statement::new(
        "INSERT INTO {shard}.discarded_files (file, due)
         SELECT file, now() + interval '1 hour' FROM unnest($1::text[]) AS file",
    );

    shard.execute(&NOTE, &[&names(files)]).await?;
    Ok(())
}

/// Takes the note back, for the transaction makes a photo of the files. False if it came too late: they may be gone.
pub(crate) async fn keep(tx: &Tx, files: &[MediaKey]) -> Result<bool> {
    const KEEP: Statement = Statement::new(
        "DELETE FROM {shard}.discarded_files WHERE file = ANY ($1) AND due > clock_timestamp()",
    );

    let kept = tx.execute(&KEEP, &[&names(files)]).await?;
    Ok(usize::try_from(kept) == Ok(files.len()))
}

/// Notes the files of a photo that the transaction removes.
pub(crate) async fn discard(tx: &Tx, files: &[MediaKey]) -> Result<()> {
    const DISCARD: Statement = Statement::new(
        "INSERT INTO {shard}.discarded_files (file) SELECT file FROM unnest($1::text[]) AS file",
    );

    tx.execute(&DISCARD, &[&names(files)]).await?;
    Ok(())
}

/// Removes files, and the notes of those that are gone. What does not work is logged, and left for the next sweep.
/// Returns how many were removed.
pub(crate) async fn remove(store: &Store, shard: &Shard, files: &[MediaKey]) -> usize {
    const FORGET: Statement =
        Statement::new("DELETE FROM {shard}.discarded_files WHERE file = ANY ($1)");

    let mut gone = Vec::with_capacity(files.len());
    for &file in files {
        match store.delete(file).await {
            Ok(()) => gone.push(file),
            Err(error) => tracing::warn!("{file} stays until the next sweep: {error}"),
        }
    }
    if let Err(error) = shard.execute(&FORGET, &[&names(&gone)]).await {
        tracing::warn!("files that are gone stay noted until the next sweep: {error}");
    }
    gone.len()
}

/// Removes the files that were to be removed before, or whose upload was cut off: some of each shard that can be
/// reached. Returns how many there were.
pub async fn sweep(app: &App) -> usize {
    let swept = app.cluster.jobs().keep_going().for_each_shard(|shard| {
        let store = app.store.clone();
        async move {
            match due(&shard).await?.as_slice() {
                [] => Ok(0),
                files => Ok(remove(&store, &shard, files).await),
            }
        }
    });
    match swept.await {
        Ok(report) => {
            // One line, for where a server is away it has many shards.
            if let Some((shard, error)) = report.failed.first() {
                let failed = report.failed.len();
                tracing::warn!("{failed} shards were not swept, shard {shard} for one: {error}");
            }
            report.done.iter().map(|(_, removed)| removed).sum()
        }
        Err(error) => {
            tracing::error!("nothing was swept: {error}");
            0
        }
    }
}

/// Files that belong to nobody. A note that somebody is taking back at this moment is locked, and skipped.
async fn due(shard: &Shard) -> Result<Vec<MediaKey>> {
    const DUE: Statement = Statement::new(
        "SELECT file FROM {shard}.discarded_files WHERE due <= now() LIMIT $1
         FOR UPDATE SKIP LOCKED",
    );

    let rows = shard.query(&DUE, &[&BATCH]).await?;
    let files = rows.iter().filter_map(|row| {
        let file: &str = row.get("file");
        let key = file.parse();
        key.inspect_err(|error| tracing::error!("discarded_files: {file}: {error}")).ok()
    });
    Ok(files.collect())
}

fn names(files: &[MediaKey]) -> Vec<String> {
    files.iter().map(MediaKey::to_string).collect()
}
