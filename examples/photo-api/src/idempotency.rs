//! `Idempotency-Key`: a POST that is sent again, because its answer was lost, makes nothing twice.
//!
//! The key is claimed in the same transaction that makes the photo or the comment, on the same shard, and kept
//! for a day (an import's for good). Of a transaction that is given up, nothing is kept. The same key with another request is refused.

use howdah::{Id, Result, Shard, Statement, Tx};
use sha2::{Digest, Sha256};

use crate::input::IdempotencyKey;

/// A key as one user uses it for one thing: uploading (the target is the user), or commenting on one photo.
pub(crate) struct Claim {
    user: Id,
    target: Id,
    key: String,
    request: Vec<u8>,
    for_good: bool,
}

/// What a key says about a request.
pub(crate) enum Earlier {
    /// It was not used before.
    Nothing,
    /// The same request made this.
    Made(Id),
    /// It was used for another request.
    AnotherRequest,
}

impl Claim {
    /// The parts are all that matters of the request.
    pub(crate) fn new(user: Id, target: Id, key: IdempotencyKey, parts: &[&[u8]]) -> Self {
        let mut hash = Sha256::new();
        for part in parts {
            // With its length, so that no two requests run into the same bytes.
            hash.update(part.len().to_be_bytes());
            hash.update(part);
        }
        Self { user, target, key: key.0, request: hash.finalize().to_vec(), for_good: false }
    }

    /// Remembered for as long as the user is, for what may be sent again in a year.
    pub(crate) fn for_good(self) -> Self {
        Self { for_good: true, ..self }
    }

    /// What an earlier request with this key made, before any work is put into this one.
    pub(crate) async fn earlier(&self, shard: &Shard) -> Result<Earlier> {
        let row = shard.query_opt(&FIND, &[&self.user, &self.target, &self.key]).await?;
        Ok(row.map_or(Earlier::Nothing, |row| self.compare(row.get("request"), row.get("made"))))
    }

    /// Takes the key for what the transaction is about to make. Waits for whoever is doing so at this moment.
    pub(crate) async fn take(&self, tx: &Tx) -> Result<Earlier> {
        const FORGET: Statement = Statement::new(
            "DELETE FROM {shard}.idempotency_keys
             WHERE user_id = $1 AND created_at < now() - interval '1 day'",
        );
        const TAKE: Statement = Statement::new(
            "INSERT INTO {shard}.idempotency_keys (user_id, target, key, request, created_at)
             VALUES ($1, $2, $3, $4, CASE WHEN $5 THEN 'infinity' ELSE now() END)
             ON CONFLICT DO NOTHING",
        );

        tx.execute(&FORGET, &[&self.user]).await?;
        match tx
            .execute(&TAKE, &[&self.user, &self.target, &self.key, &self.request, &self.for_good])
            .await?
        {
            0 => {
                let row = tx.query_one(&FIND, &[&self.user, &self.target, &self.key]).await?;
                Ok(self.compare(row.get("request"), row.get("made")))
            }
            _ => Ok(Earlier::Nothing),
        }
    }

    /// Notes what was made.
    pub(crate) async fn made(&self, tx: &Tx, id: Id) -> Result<()> {
        const MADE: Statement = Statement::new(
            "UPDATE {shard}.idempotency_keys SET request = $4, made = $5
             WHERE user_id = $1 AND target = $2 AND key = $3",
        );

        tx.execute(&MADE, &[&self.user, &self.target, &self.key, &self.request, &id]).await?;
        Ok(())
    }

    fn compare(&self, request: Vec<u8>, made: Option<Id>) -> Earlier {
        match made {
            // It failed, and was not given back: earlier versions of this program did not.
            None => Earlier::Nothing,
            Some(made) if request == self.request => Earlier::Made(made),
            Some(_) => Earlier::AnotherRequest,
        }
    }
}

// Older ones count for nothing, whether or not they were removed yet. An import's are from 'infinity'.
const FIND: Statement = Statement::new(
    "SELECT request, made FROM {shard}.idempotency_keys
     WHERE user_id = $1 AND target = $2 AND key = $3
       AND created_at >= now() - interval '1 day'",
);
