//! Values that are unique in the whole cluster, although their owners live anywhere.
//!
//! A claim is a row of a lookup table that is sharded by the value itself: whoever wants the value comes to the same shard,
//! and its primary key decides. The row is written in one transaction over shards with the owner's own row, so a claim
//! without its owner, or an owner without its claim, is never seen for good: what a process leaves that dies in between is
//! committed or undone as a whole, by any other.

use std::fmt;

use super::two_phase::ClusterTx;
use super::{Cluster, Shard};
use crate::error::Kind;
use crate::id::Id;
use crate::statement::Statement;
use crate::{Error, Outcome, Result};

/// The longest value, in bytes: an entry of an index holds no more than about 2700.
const MAX_BYTES: usize = 1024;

/// A lookup table of values that are each claimed by one owner at most, such as the e-mail addresses of users.
///
/// The table is the application's, made by a migration:
///
/// ```sql
/// CREATE TABLE emails (value text PRIMARY KEY, owner bigint NOT NULL);
/// ```
///
/// Values are compared byte for byte: what counts as the same, such as case, is for the application to make the same.
///
/// # Examples
///
/// ```no_run
/// use howdah::{Claims, Cluster, Id, Result, Statement};
///
/// const EMAILS: Claims = Claims::new("emails");
/// const ADD: Statement = Statement::new("INSERT INTO {shard}.users (name) VALUES ($1) RETURNING id");
///
/// async fn sign_up(cluster: &Cluster, name: &str, email: &str) -> Result<Id> {
///     let shard = cluster.shard_for_key(name);
///     cluster
///         .transaction(async |tx| {
///             let user: Id = tx.on(&shard).await?.query_one(&ADD, &[&name]).await?.get(0);
///             tx.claim(&EMAILS, email, user).await?;
///             Ok(user)
///         })
///         .await
/// }
///
/// async fn by_email(cluster: &Cluster, email: &str) -> Result<Option<Id>> {
///     cluster.owner_of(&EMAILS, email).await
/// }
/// ```
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Claims {
    table: &'static str,
}

impl Claims {
    /// The lookup table of this name.
    ///
    /// # Panics
    ///
    /// When the name is not of lower-case letters, digits and underscores; in a `const`, that is an error of the compiler.
    #[must_use]
    pub const fn new(table: &'static str) -> Self {
        assert!(
            is_plain(table.as_bytes()),
            "a table's name is of a-z, 0-9 and _, and begins with no digit"
        );
        Self { table }
    }

    fn statement(self, sql: &str) -> Result<Statement> {
        Statement::parse(sql.replace("{table}", &format!("{{shard}}.{}", self.table)))
    }

    /// The shard that has the row of a value.
    fn shard(self, cluster: &Cluster, value: &str) -> Result<Shard> {
        if value.len() > MAX_BYTES {
            return Err(Error::input(format!(
                "a value of {} bytes cannot be claimed",
                value.len()
            ))
            .hint(format!("it may have {MAX_BYTES}")));
        }
        Ok(cluster.shard_for_key(value))
    }
}

impl ClusterTx {
    /// Claims a value for an owner, as part of the transaction. Claimed by the same owner already, it stays so.
    ///
    /// Of two who claim the same value at once, the second waits until the first's transaction has ended.
    ///
    /// # Errors
    ///
    /// [Taken](Error::is_taken), when another owner has it. The transaction is then of no more use, as after any error.
    pub async fn claim(&self, claims: &Claims, value: &str, owner: Id) -> Result<()> {
        const TAKE: &str =
            "INSERT INTO {table} (value, owner) VALUES ($1, $2) ON CONFLICT DO NOTHING";
        // Locked, for the owner's own next transaction may release it before this one commits.
        const OWNER: &str = "SELECT owner FROM {table} WHERE value = $1 FOR KEY SHARE";

        let tx = self.on(&claims.shard(self.cluster(), value)?).await?;
        if tx.execute(&claims.statement(TAKE)?, &[&value, &owner]).await? == 1 {
            return Ok(());
        }
        Err(tx.fail(match tx.query_opt(&claims.statement(OWNER)?, &[&value]).await? {
            Some(row) if row.get::<_, Id>(0) == owner => return Ok(()),
            Some(_) => Error::new(Kind::Taken, format!("the value is taken, in {}", claims.table))
                .with_outcome(Outcome::Failed),
            // Released just now: the next run finds it free.
            None => Error::new(Kind::Conflict, "the value was released meanwhile"),
        }))
    }

    /// Releases a value as part of the transaction; says whether this owner had it.
    ///
    /// # Errors
    ///
    /// As any statement.
    pub async fn release(&self, claims: &Claims, value: &str, owner: Id) -> Result<bool> {
        const RELEASE: &str = "DELETE FROM {table} WHERE value = $1 AND owner = $2";

        let tx = self.on(&claims.shard(self.cluster(), value)?).await?;
        Ok(tx.execute(&claims.statement(RELEASE)?, &[&value, &owner]).await? == 1)
    }
}

impl Cluster {
    /// Who has claimed a value: one read on one shard.
    ///
    /// # Errors
    ///
    /// When the value's shard cannot be read.
    pub async fn owner_of(&self, claims: &Claims, value: &str) -> Result<Option<Id>> {
        const OWNER: &str = "SELECT owner FROM {table} WHERE value = $1";

        let shard = claims.shard(self, value)?;
        let row = shard.query_opt(&claims.statement(OWNER)?, &[&value]).await?;
        Ok(row.map(|row| row.get(0)))
    }
}

impl fmt::Debug for Claims {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Claims({})", self.table)
    }
}

/// Whether a name needs no quotes in SQL.
const fn is_plain(name: &[u8]) -> bool {
    let mut at = 0;
    while at < name.len() {
        let letter = matches!(name[at], b'a'..=b'z' | b'_');
        if !letter && (at == 0 || !name[at].is_ascii_digit()) {
            return false;
        }
        at += 1;
    }
    !name.is_empty() && name.len() <= 63
}
