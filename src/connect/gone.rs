//! What a session that holds locks is told, so that it does not hold them for long when its client is gone.

use tokio_postgres::Client;

use super::statement_failure;
use crate::Result;

/// A client that was stopped holds no transaction open for longer than ten seconds; one whose machine or network is gone
/// holds no lock for longer than a minute.
pub(crate) const LIMITS: &str = "SET tcp_keepalives_idle = 15; SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 6; \
    SET tcp_user_timeout = '45s'; SET idle_in_transaction_session_timeout = '10s'; ";

/// What is done for a client that is gone ends within a second, and its locks with it. Not every platform can tell.
const NOTICE: &str = "SET client_connection_check_interval = '1s'";

/// Sets the limits, whatever the server's defaults are.
pub(crate) async fn limit(client: &Client) -> Result<()> {
    let limited = client.batch_execute(LIMITS).await;
    limited.map_err(|error| statement_failure(error, "cannot set up the session"))?;
    notice(client).await;
    Ok(())
}

/// What cannot be said in one message with the limits, for it may be refused: then the server takes longer to notice.
pub(crate) async fn notice(client: &Client) {
    let _ = client.batch_execute(NOTICE).await;
}
