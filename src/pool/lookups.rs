//! The types of a statement's parameters and columns, learnt through a pooler in transaction mode.
//!
//! Such a pooler hands each transaction another server connection, so a statement that was prepared by name is somewhere else the
//! next time. The driver prepares some for itself, to look up types that it does not know (enums, domains, composites), and
//! relies on them for as long as its connection lives. So all that it has to learn of a statement it learns in one transaction
//! here, in which those that it relies on are there, and after which none is left on the server. Running the statement then
//! looks up nothing.

use std::sync::{Arc, Mutex, PoisonError};

use postgres_types::Type;
use tokio_postgres::{Client, Error, SimpleQueryMessage, Statement};

use super::session::Session;

/// Named as the driver names its own.
const NAMED: &str = "SELECT name, statement FROM pg_prepared_statements WHERE name ~ '^s[0-9]+$'";

/// How the statements begin that the driver prepares for itself.
const LOOKUPS: [&str; 3] =
    ["SELECT t.typname, t.typtype", "SELECT enumlabel", "SELECT attname, atttypid"];

/// The statements that the driver relies on, by name.
#[derive(Debug, Default)]
pub(super) struct Lookups(Mutex<Vec<(String, String)>>);

impl Lookups {
    /// Asks the server for the types of a statement's parameters, has the driver learn those of its columns, and leaves
    /// nothing on the server.
    pub(super) async fn parameter_types(
        &self,
        session: &Session,
        text: &str,
    ) -> Result<Arc<[Type]>, Error> {
        let client = session.client();
        if session.is_in_transaction() {
            return self.learn(client, text, false).await;
        }
        let learnt = self.learn(client, text, true).await;
        if learnt.is_err() {
            // The statement is wrong; the connection is not.
            client.batch_execute("ROLLBACK").await?;
        }
        learnt
    }

    /// Learns within the transaction that is open, or in one of its own.
    async fn learn(&self, client: &Client, text: &str, own: bool) -> Result<Arc<[Type]>, Error> {
        let known = self.known();
        let mut left = named(client, if own { "BEGIN;" } else { "" }).await?;
        // At its beginning nobody relies on any: they are left by connections that died.
        left.retain(|(name, _)| own || known.iter().any(|(known, _)| known == name));
        let prepare = known.iter().map(|(name, text)| format!("PREPARE {name} (oid) AS {text};"));
        run(client, deallocate(&left).chain(prepare)).await?;

        let statement = client.prepare(text).await?;
        let types = statement.params().into();
        let looked_up = !known.is_empty() || !is_plain(&statement);
        // It is closed before the transaction ends.
        drop(statement);

        let mut all = known;
        if looked_up {
            let there = named(client, "").await?;
            all.extend(there.into_iter().filter(|(_, text)| is_lookup(text)));
        }
        let end = own.then(|| "ROLLBACK".to_owned());
        run(client, deallocate(&all).chain(end)).await?;
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = all;
        Ok(types)
    }

    fn known(&self) -> Vec<(String, String)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Whether the driver knows every type by itself.
fn is_plain(statement: &Statement) -> bool {
    let columns = statement.columns().iter().map(|column| column.type_());
    statement.params().iter().chain(columns).all(|of| Type::from_oid(of.oid()).is_some())
}

/// Whether the driver has just prepared it. Those that were prepared for it begin with `PREPARE` here.
fn is_lookup(text: &str) -> bool {
    LOOKUPS.iter().any(|lookup| text.starts_with(lookup))
}

/// The statements there are by name, after some other command.
async fn named(client: &Client, first: &str) -> Result<Vec<(String, String)>, Error> {
    let answer = client.simple_query(&format!("{first}{NAMED}")).await?;
    let row = |message| match message {
        SimpleQueryMessage::Row(row) => Some((row.get(0)?.to_owned(), row.get(1)?.to_owned())),
        _ => None,
    };
    Ok(answer.into_iter().filter_map(row).collect())
}

async fn run(client: &Client, commands: impl Iterator<Item = String>) -> Result<(), Error> {
    let script: String = commands.collect();
    if script.is_empty() { Ok(()) } else { client.batch_execute(&script).await }
}

fn deallocate(statements: &[(String, String)]) -> impl Iterator<Item = String> {
    statements.iter().map(|(name, _)| format!("DEALLOCATE {name};"))
}
