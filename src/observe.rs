//! What happens, told to whoever wants to know: the features `tracing` and `metrics`. Without them, nothing is done.
//!
//! Labels name instances and never shards, of which there are thousands. Neither SQL text nor parameters are told.
//!
//! | metric | kind | labels |
//! | --- | --- | --- |
//! | `howdah_checkout_seconds` | histogram: waiting for a connection | `instance` |
//! | `howdah_checkout_failures_total` | counter | `instance` |
//! | `howdah_connects_total` | counter: connections made | `instance` |
//! | `howdah_connect_failures_total` | counter | `instance` |
//! | `howdah_statement_seconds` | histogram: from sending to the last row | `instance` |
//! | `howdah_statement_failures_total` | counter | `instance`, `sqlstate` |
//! | `howdah_stale_homes_total` | counter: statements that found their shard gone | `instance` |
//! | `howdah_failovers_total` | counter: another primary was found | `instance` |
//! | `howdah_replica_reads_total` | counter: reads for which a replica would do | `instance`, `by` (`replica` or `primary`) |
//! | `howdah_in_doubt_total` | counter: attempts in vain to finish a part of a transaction over shards | `instance` |
//! | `howdah_map_version` | gauge | |
//! | `howdah_pool_…` | gauges and counters: the fields of [`PoolStats`](crate::PoolStats) but for times, every second | `instance`, `host`: a replica's, or `primary` |
//!
//! | span | around | fields |
//! | --- | --- | --- |
//! | `checkout` | getting a connection of one's own | `instance` |
//! | `wait` | within it, the wait for one's turn | `instance` |
//! | `connect` | making a connection, in a task of its own | `instance` |
//! | `execute` | one statement, from sending to the last row | `instance`, `shard` |

#![cfg_attr(
    not(feature = "tracing"),
    expect(unused_variables, reason = "who is not there is not told")
)]

use std::time::Duration;

use crate::Error;
use crate::config::Dsn;
use crate::shard::{InstanceName, MapVersion, ShardId};

/// Work within a span of this name, at the level `debug`, with an instance and perhaps more as its fields.
macro_rules! span {
    ($name:literal, $work:expr, $($field:tt)*) => {{
        #[cfg(feature = "tracing")]
        {
            tracing::Instrument::instrument($work, tracing::debug_span!($name, $($field)*))
        }
        #[cfg(not(feature = "tracing"))]
        $work
    }};
}

/// Getting a connection.
pub(crate) fn during_checkout<T>(
    instance: &InstanceName,
    work: impl Future<Output = T>,
) -> impl Future<Output = T> {
    span!("checkout", work, %instance)
}

/// Waiting for one's turn.
pub(crate) fn during_wait<T>(
    instance: &InstanceName,
    work: impl Future<Output = T>,
) -> impl Future<Output = T> {
    span!("wait", work, %instance)
}

/// Making a connection.
pub(crate) fn during_connect<T>(
    instance: &InstanceName,
    work: impl Future<Output = T>,
) -> impl Future<Output = T> {
    span!("connect", work, %instance)
}

/// Running a statement.
pub(crate) fn during_execute<T>(
    instance: &InstanceName,
    shard: ShardId,
    work: impl Future<Output = T>,
) -> impl Future<Output = T> {
    span!("execute", work, %instance, %shard)
}

/// A task got a connection, or none, after a wait.
pub(crate) fn checkout<T>(instance: &InstanceName, wait: Duration, got: &Result<T, Error>) {
    #[cfg(feature = "metrics")]
    {
        metrics::histogram!("howdah_checkout_seconds", "instance" => instance.to_string())
            .record(wait);
        if got.is_err() {
            metrics::counter!("howdah_checkout_failures_total", "instance" => instance.to_string())
                .increment(1);
        }
    }
    #[cfg(feature = "tracing")]
    match got {
        Ok(_) => tracing::trace!(%instance, ?wait, "checked out a connection"),
        Err(error) => tracing::warn!(%instance, ?wait, %error, "got no connection"),
    }
}

/// A connection was made, or not.
pub(crate) fn connect<T>(instance: &InstanceName, took: Duration, made: &Result<T, Error>) {
    #[cfg(feature = "metrics")]
    {
        let name =
            if made.is_ok() { "howdah_connects_total" } else { "howdah_connect_failures_total" };
        metrics::counter!(name, "instance" => instance.to_string()).increment(1);
    }
    #[cfg(feature = "tracing")]
    match made {
        Ok(_) => tracing::debug!(%instance, ?took, "connected"),
        Err(error) => tracing::warn!(%instance, ?took, %error, "cannot connect"),
    }
}

/// A statement was answered.
pub(crate) fn statement<T>(
    instance: &InstanceName,
    shard: ShardId,
    took: Duration,
    answer: &Result<T, Error>,
) {
    #[cfg(feature = "metrics")]
    {
        metrics::histogram!("howdah_statement_seconds", "instance" => instance.to_string())
            .record(took);
        if let Err(error) = answer {
            let sqlstate = error.code().map_or("none", |code| code.code()).to_owned();
            let labels = [("instance", instance.to_string()), ("sqlstate", sqlstate)];
            metrics::counter!("howdah_statement_failures_total", &labels).increment(1);
        }
    }
    #[cfg(feature = "tracing")]
    match answer {
        Ok(_) => tracing::trace!(%instance, %shard, ?took, "executed a statement"),
        // Whether it matters is the caller's to say, who gets the error.
        Err(error) => {
            let sqlstate = error.code().map(|code| code.code());
            let outcome = error.outcome();
            tracing::debug!(%instance, %shard, ?took, sqlstate, ?outcome, "a statement failed");
        }
    }
}

/// An instance has another primary than before.
pub(crate) fn primary(instance: &InstanceName, primary: &Dsn) {
    #[cfg(feature = "metrics")]
    metrics::counter!("howdah_failovers_total", "instance" => instance.to_string()).increment(1);
    #[cfg(feature = "tracing")]
    tracing::warn!(%instance, %primary, "the instance has another primary");
}

/// A read for which a replica would do was answered by one, or had to go to the primary.
pub(crate) fn replica_read(instance: &InstanceName, by_replica: bool) {
    #[cfg(feature = "metrics")]
    {
        let by = if by_replica { "replica" } else { "primary" };
        let labels = [("instance", instance.to_string()), ("by", by.to_owned())];
        metrics::counter!("howdah_replica_reads_total", &labels).increment(1);
    }
    #[cfg(feature = "tracing")]
    tracing::trace!(%instance, by_replica, "read where a replica would do");
}

/// A statement did not find its shard where the map said.
pub(crate) fn stale_home(instance: &InstanceName, shard: ShardId, version: MapVersion) {
    #[cfg(feature = "metrics")]
    metrics::counter!("howdah_stale_homes_total", "instance" => instance.to_string()).increment(1);
    #[cfg(feature = "tracing")]
    tracing::info!(%instance, %shard, %version, "the shard has moved");
}

/// A part of a transaction over shards is prepared, and could not be finished yet.
pub(crate) fn in_doubt(instance: &InstanceName, shard: ShardId, error: &Error) {
    #[cfg(feature = "metrics")]
    metrics::counter!("howdah_in_doubt_total", "instance" => instance.to_string()).increment(1);
    #[cfg(feature = "tracing")]
    tracing::warn!(%instance, %shard, %error, "a transaction over shards is in doubt");
}

/// The map was read for the first time, or has changed.
pub(crate) fn map(version: MapVersion) {
    #[cfg(feature = "metrics")]
    {
        #[expect(clippy::cast_precision_loss, reason = "gauges are floating; versions are small")]
        let version = version.get() as f64;
        metrics::gauge!("howdah_map_version").set(version);
    }
    #[cfg(feature = "tracing")]
    tracing::info!(%version, "the shard map is known");
}

/// A number that goes up and down.
#[cfg(feature = "metrics")]
pub(crate) fn gauge(name: &'static str, instance: &InstanceName, host: String, value: f64) {
    metrics::gauge!(name, "instance" => instance.to_string(), "host" => host).set(value);
}

/// A number that was counted elsewhere, and only goes up.
#[cfg(feature = "metrics")]
pub(crate) fn total(name: &'static str, instance: &InstanceName, host: String, value: u64) {
    metrics::counter!(name, "instance" => instance.to_string(), "host" => host).absolute(value);
}

/// The catalog could not be asked, or the copy of the map not be written; the application goes on with what it knows.
pub(crate) fn catalog_trouble(error: &Error) {
    #[cfg(feature = "tracing")]
    tracing::warn!(%error, "the catalog is out of reach");
}

/// The catalog is not where the configuration says, and was found by what led there.
pub(crate) fn catalog_moved(to: &Dsn) {
    #[cfg(feature = "tracing")]
    tracing::warn!(catalog = %to, "the catalog has moved: [catalog] dsn in the configuration is out of date");
}
