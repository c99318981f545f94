//! Cursors: the rows of one statement on several shards, fetched as they are wanted.

use futures_util::future::join_all;
use tokio_postgres::{Error, Row};

use super::session::{Params, Session};
use crate::shard::Home;
use crate::statement::Statement;

impl Session {
    /// Opens a cursor for each shard, in the transaction that is open. All are sent before any is answered.
    pub(crate) async fn declare(
        &self,
        statement: &Statement,
        homes: &[(&Home, Params<'_>)],
    ) -> Vec<Result<u64, Error>> {
        let declaring = async {
            // One after the other: what the driver relies on for one of them is gone after it.
            let mut types = Vec::with_capacity(homes.len());
            for (home, _) in homes {
                types.push(self.parameter_types(statement, home).await);
            }
            join_all(homes.iter().zip(types).enumerate().map(
                async |(number, ((home, params), types))| {
                    let text = statement.render(home);
                    let sql = format!("DECLARE howdah_{number} NO SCROLL CURSOR FOR {text}");
                    let Some(types) = types? else {
                        return self.client().execute(&sql, params).await;
                    };
                    let params: Vec<_> =
                        params.iter().copied().zip(types.iter().cloned()).collect();
                    self.client().execute_typed(&sql, &params).await
                },
            ))
            .await
        };
        self.watch(declaring).await
    }

    /// The next rows of a cursor, at most so many.
    pub(crate) async fn fetch(&self, cursor: usize, count: usize) -> Result<Vec<Row>, Error> {
        let sql = format!("FETCH FORWARD {count} FROM howdah_{cursor}");
        self.watch(self.client().query_typed(&sql, &[])).await
    }
}
