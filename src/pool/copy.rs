//! COPY, into a shard and out of it: one table's rows as fast as PostgreSQL takes and gives them.

use std::pin::pin;

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};

use super::session::Session;
use crate::connect::statement_failure;
use crate::shard::Home;
use crate::statement::Statement;
use crate::{Error, Result};

/// How much is sent in one message.
const PIECE_BYTES: usize = 64 << 10;

impl Session {
    /// Sends rows, all of `data`, and counts them. Dropping the future breaks it off.
    pub(crate) async fn copy_in(
        &self,
        statement: &Statement,
        home: &Home,
        mut data: Bytes,
    ) -> Result<u64> {
        let sql = statement.render(home);
        let copying = async {
            let mut sink = pin!(self.client().copy_in::<_, Bytes>(&sql).await?);
            while !data.is_empty() {
                sink.send(data.split_to(data.len().min(PIECE_BYTES))).await?;
            }
            sink.finish().await
        };
        self.watch(copying).await.map_err(|error| refused(error, statement, home))
    }

    /// Hands each row to `take`, and counts them. Dropping the future breaks it off.
    pub(crate) async fn copy_out<F>(
        &self,
        statement: &Statement,
        home: &Home,
        mut take: impl FnMut(Bytes) -> F + Send,
    ) -> Result<u64>
    where
        F: Future<Output = ()> + Send,
    {
        let sql = statement.render(home);
        let copying = async {
            let mut rows = pin!(self.client().copy_out(&sql).await?);
            let mut count = 0;
            while let Some(row) = rows.next().await {
                take(row?).await;
                count += 1;
            }
            Ok(count)
        };
        self.watch(copying).await.map_err(|error| refused(error, statement, home))
    }
}

fn refused(error: tokio_postgres::Error, statement: &Statement, home: &Home) -> Error {
    statement_failure(error, format!("cannot run {statement:?} on shard {}", home.shard()))
}
