//! The operator's page: the servers, where the shards are and which of them move, and this process's connections.

use std::time::Duration;

use howdah::{ClusterStatus, Error, HostStatus, InstanceStatus, MoveReport, PoolStats};
use maud::{Markup, html};

use super::layout::{Here, page};
use super::views::Frame;

/// How many colours there are to tell instances apart; with more, some share one.
const HUES: usize = 8;

/// The cluster as it is now, the moves that have not ended, and the pools of this process.
#[must_use]
pub fn ops(
    status: &ClusterStatus,
    open_moves: Result<&[MoveReport], &Error>,
    pools: &[PoolStats],
) -> Markup {
    let content = html! {
        section.ops {
            h1 { "Operation" }
            p.aside {
                (status.shards.get()) " shards on " (status.instances.len())
                " instances; version " (status.map_version) " of the map. "
                a href="/metrics" { "All numbers" }
            }
            h2 { "Instances" }
            (instances(&status.instances))
            h2 { "Shards" }
            (shards(&status.instances))
            h2 { "Moves" }
            (moves(open_moves))
            h2 { "Connections of this process" }
            (connections(pools))
        }
    };
    page(&Frame::new(None), "Operation", Here::Outside, &content)
}

fn instances(instances: &[InstanceStatus]) -> Markup {
    html! {
        table {
            thead { tr { th { "Name" } th { "State" } th { "PostgreSQL" } th { "Shards" } th { "Size" } th { "Hosts" } } }
            tbody {
                @for (number, instance) in instances.iter().enumerate() {
                    tr {
                        th scope="row" { span.shard.{ "hue-" (number % HUES) } {} " " (instance.name) }
                        td { (instance.state) }
                        td { (instance.server_version.as_deref().unwrap_or("does not answer")) }
                        td { (instance.shards.len()) }
                        td { @if let Some(bytes) = instance.bytes { (megabytes(bytes)) } }
                        td { @for host in &instance.hosts { (server(host)) } }
                    }
                }
            }
        }
    }
}

fn server(host: &HostStatus) -> Markup {
    html! {
        div {
            (host.host) ":" (host.port) " " em { (host.role.as_str()) }
            @if let Some(lag) = host.lag_bytes.filter(|lag| *lag > 0) { " " (megabytes(lag)) " behind" }
            @if let Some(error) = &host.error { p.refusal { (error) } }
        }
    }
}

/// One square a shard, in the colour of its instance.
fn shards(instances: &[InstanceStatus]) -> Markup {
    let mut all: Vec<_> = instances
        .iter()
        .enumerate()
        .flat_map(|(number, instance)| {
            instance.shards.iter().map(move |shard| (shard.get(), number, &instance.name))
        })
        .collect();
    all.sort_unstable();
    html! {
        div.shards role="img" aria-label="Which instance each shard lives on" {
            @for (shard, number, name) in all {
                span.shard.{ "hue-" (number % HUES) } title={ "shard " (shard) " on " (name) } {}
            }
        }
    }
}

/// A line a move that has not ended; what is not known is left out.
fn moves(moves: Result<&[MoveReport], &Error>) -> Markup {
    let moves = match moves {
        Ok([]) => {
            return html! { p.aside { "No shard is on its way, and none can be brought back." } };
        }
        Ok(moves) => moves,
        Err(error) => return html! { p.refusal { (error) } },
    };
    html! {
        table {
            thead {
                tr {
                    th { "Move" } th { "Shard" } th { "From" } th { "To" } th { "Phase" } th { "Step" } th { "Rows" }
                    th { "Size" } th { "A second" } th { "Left" } th { "Behind" }
                }
            }
            tbody {
                @for report in moves {
                    tr {
                        th scope="row" { (report.id) }
                        td { (report.shard) }
                        td { (report.source) }
                        td { (report.target) }
                        td { (report.phase) }
                        td { (report.step) }
                        td { (report.rows) }
                        td {
                            (megabytes(report.bytes))
                            @if let Some(all) = report.of_bytes { " of about " (megabytes(all)) }
                        }
                        td { @if let Some(bytes) = report.bytes_per_second { (megabytes(bytes)) } }
                        td { @if let Some(left) = report.left() { (format!("{:.0} s", left.as_secs_f64())) } }
                        td { @if let Some(lag) = report.lag { (milliseconds(lag)) } }
                    }
                    @if let Some(error) = &report.error {
                        tr { td colspan="11" { p.refusal { (error) } } }
                    }
                }
            }
        }
    }
}

fn connections(pools: &[PoolStats]) -> Markup {
    html! {
        table {
            thead {
                tr {
                    th { "Instance" } th { "Most" } th { "Lent" } th { "Pipelines" } th { "Idle" } th { "Being made" }
                    th { "Waiting" } th { "Longest" } th { "Statements" } th { "Each" } th { "Prepared" }
                }
            }
            tbody {
                @for pool in pools {
                    tr {
                        th scope="row" {
                            (pool.instance)
                            @if let Some(replica) = &pool.replica { " " em { (replica) } }
                            @if pool.paused { " " em { "paused" } }
                        }
                        td { (pool.size) }
                        td { (pool.active) }
                        td { (pool.pipelines) }
                        td { (pool.idle) }
                        td { (pool.connecting) }
                        td { (pool.waiting) }
                        td { (milliseconds(pool.longest_wait)) }
                        td { (pool.statements) }
                        td { (milliseconds(mean(pool.statement_time, pool.statements))) }
                        td { (pool.statements_kept) }
                    }
                    @if let Some(trouble) = &pool.trouble {
                        tr { td colspan="11" { p.refusal { (trouble) } } }
                    }
                }
            }
        }
    }
}

fn mean(total: Duration, count: u64) -> Duration {
    total.div_f64(f64::from(u32::try_from(count.max(1)).unwrap_or(u32::MAX)))
}

fn milliseconds(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1e3)
}

fn megabytes(bytes: u64) -> String {
    format!("{} MiB", bytes >> 20)
}
