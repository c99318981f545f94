//! What `tracing` is told of a call: where it waits, connects and executes, and for whom.
#![cfg(test)]
#![cfg(feature = "tracing")]

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex};

use howdah::testing::TestCluster;
use howdah::{Cluster, Result, ShardId, Statement};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

const IS_LOCAL: Statement = Statement::new("SELECT {shard}.is_local(1)");

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Span {
    name: &'static str,
    /// The span within which it was made.
    within: Option<&'static str>,
    fields: BTreeMap<&'static str, String>,
}

/// Keeps every span of the library's.
#[derive(Clone, Default)]
struct Spans(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    made: Vec<Span>,
    /// Those that are entered now, by their places among the made ones.
    entered: Vec<u64>,
}

struct Fields<'a>(&'a mut BTreeMap<&'static str, String>);

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.insert(field.name(), format!("{value:?}"));
    }
}

impl Subscriber for Spans {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_span() && metadata.target().starts_with("howdah")
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let mut fields = BTreeMap::new();
        span.record(&mut Fields(&mut fields));
        let mut state = self.0.lock().unwrap();
        let around = state.entered.last().and_then(|id| usize::try_from(id - 1).ok());
        let within = around.map(|place| state.made[place].name);
        state.made.push(Span { name: span.metadata().name(), within, fields });
        Id::from_u64(state.made.len() as u64)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, _: &Event<'_>) {}

    fn enter(&self, span: &Id) {
        self.0.lock().unwrap().entered.push(span.into_u64());
    }

    fn exit(&self, _: &Id) {
        self.0.lock().unwrap().entered.pop();
    }
}

impl Spans {
    /// Those since the last time, each once.
    fn take(&self) -> Vec<Span> {
        let mut state = self.0.lock().unwrap();
        assert!(state.entered.is_empty(), "what is entered is left");
        let mut made = std::mem::take(&mut state.made);
        made.sort();
        made.dedup();
        made
    }
}

fn span(name: &'static str, within: Option<&'static str>, fields: &[&'static str]) -> Span {
    let value = |field| match field {
        "instance" => "pg1",
        _ => "0",
    };
    let fields = fields.iter().map(|field| (*field, value(*field).to_owned())).collect();
    Span { name, within, fields }
}

#[tokio::test]
async fn a_call_is_seen_to_check_out_wait_connect_and_execute() -> Result<()> {
    let test = TestCluster::builder().instances(1).shards(1).start().await?;
    let config = test.config().max_size(1).min_idle(0).pipelines(0);
    let cluster = Cluster::connect(config).await?;
    let shard = cluster.shard(ShardId::new(0)?)?;
    let spans = Spans::default();
    // Of this thread, on which the runtime has all its tasks.
    let _told = tracing::subscriber::set_default(spans.clone());

    shard.query(&IS_LOCAL, &[]).await?;
    let execute = || span("execute", None, &["instance", "shard"]);
    let checkout = || span("checkout", None, &["instance"]);
    assert_eq!(spans.take(), [checkout(), span("connect", None, &["instance"]), execute()]);

    shard.query(&IS_LOCAL, &[]).await?;
    assert_eq!(spans.take(), [checkout(), execute()], "the connection is there");

    let held = shard.begin().await?;
    spans.take();
    let (waited, rolled_back) =
        tokio::join!(async { shard.query(&IS_LOCAL, &[]).await }, held.rollback());
    waited?;
    rolled_back?;
    let wait = span("wait", Some("checkout"), &["instance"]);
    assert_eq!(spans.take(), [checkout(), execute(), wait]);
    Ok(())
}

#[tokio::test]
async fn a_read_on_a_pipeline_executes_and_checks_nothing_out() -> Result<()> {
    let test = TestCluster::builder().instances(1).shards(1).start().await?;
    let cluster = Cluster::connect(test.config().max_size(2).pipelines(1)).await?;
    let shard = cluster.shard(ShardId::new(0)?)?;
    const READ: Statement = Statement::new("SELECT last_value FROM {shard}.howdah_block");
    shard.query(&READ, &[]).await?;
    let spans = Spans::default();
    let _told = tracing::subscriber::set_default(spans.clone());
    shard.query(&READ, &[]).await?;
    assert_eq!(spans.take(), [span("execute", None, &["instance", "shard"])]);
    Ok(())
}
