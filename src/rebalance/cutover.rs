//! The cutover: the few milliseconds in which a shard takes no writes, and after which it lives elsewhere.
//!
//! Until the source's commit everything is undone by ending transactions and giving the target its old name back. From that
//! commit on the only way is forward. The order of the steps is argued in [`MoveStep`](super::MoveStep).

use std::time::Duration;

use futures_util::try_join;
use tokio::sync::MutexGuard;
use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::types::PgLsn;

use super::hosts::Hosts;
use super::journal::Change;
use super::names::{MARK_TABLE, schema_at};
use super::relations::Relations;
use super::run::Run;
use super::sequences::{self, Sequence};
use super::side::Side;
use super::step::MoveStep;
use super::structure::Structure;
use super::verify::{Findings, Pair};
use super::{seal, stream};
use crate::connect::sqlstate::is_in_use;
use crate::error::Kind;
use crate::shard::Epoch;
use crate::{Error, Outcome, Result};

/// How long the locks that hurt nobody are waited for: autovacuum leaves after a second.
const GENTLE_LOCK: &str = "15s";
/// How long one side may wait for these locks of the other, in a transaction that is idle; and how long a mover may say nothing
/// from then on.
const GENTLE_IDLE: &str = "60s";
const IDLE: &str = "10s";
/// How long writers may be made to wait for a lock that the fence does not get, at first and at most.
const LOCK: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(200));
/// How long the fence may take, from its first lock until the target has everything.
const FENCE: Duration = Duration::from_secs(1);
/// How long all may take that is between that and the commit which closes the source.
const READY: Duration = Duration::from_secs(2);
/// How often the fence is tried, and the pauses between, from the first to the longest.
const ATTEMPTS: u32 = 60;
const PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));
/// How far the target may be behind when the fence begins, at first and at most, and how long that is waited for: before it is
/// our turn, and then, when others wait for theirs.
const CLOSE_BEHIND: (Duration, Duration) = (Duration::from_millis(4), Duration::from_millis(60));
const CATCH_UP: Duration = Duration::from_secs(600);
const TURN: Duration = Duration::from_secs(3);
/// How long all hosts may take to hear of a rename: the target's in the fence, the source's after it.
const TARGET_HOSTS: Duration = Duration::from_secs(1);
const SOURCE_HOSTS: Duration = Duration::from_secs(600);
pub(super) const UNSEALED_HOSTS: Duration = Duration::from_secs(600);
/// How long they may take to follow closely: before it is our turn, and then, when others wait for theirs.
const CHECK_HOSTS: Duration = Duration::from_secs(600);
const CHECK_HOSTS_AGAIN: Duration = Duration::from_secs(1);

const CANNOT_CLOSE: &str = "cannot close the source";

/// One change of home.
pub(super) struct Cutover<'a> {
    pub(super) run: &'a Run<'a>,
    /// The home, and the copy that becomes it.
    pub(super) from: &'a Side,
    pub(super) to: &'a Side,
    pub(super) old: Epoch,
    pub(super) new: Epoch,
    /// The stream between them.
    pub(super) stream: &'a str,
    /// Whether the position is to be noted where a stream back begins.
    pub(super) reverse: bool,
}

/// What the fence is prepared with before it hurts anybody.
struct Prepared {
    sequences: Vec<Sequence>,
    functions: Vec<String>,
}

/// The home after it was closed for good.
struct Closed {
    generation: i64,
    /// The move had ended already, and the catalog forgot.
    is_dropped: bool,
}

impl Cutover<'_> {
    /// The schema's old name and its new one.
    pub(super) fn schemas(&self) -> [String; 2] {
        let shard = self.run.report.shard;
        [self.old, self.new].map(|epoch| schema_at(shard, epoch, &self.from.name))
    }

    /// Fences the source, renames the target, closes the source, unseals the target, and tells everybody.
    pub(super) async fn perform(&self, relations: &Relations, findings: &Findings) -> Result<()> {
        let run = self.run;
        let connector = &run.mover.connector;
        let mut hosts =
            [Hosts::connect(connector, self.from).await, Hosts::connect(connector, self.to).await];
        run.begin(MoveStep::CheckHosts).await?;
        self.within_cap(self.check_hosts(&mut hosts, CHECK_HOSTS)).await?;
        run.end(MoveStep::CheckHosts).await?;

        let (mut attempt, mut lock, mut pause) = (1, LOCK.0, PAUSE.0);
        loop {
            let turn = self.turn().await?;
            let attempted = self.attempt(relations, findings, lock, &mut hosts).await;
            if attempted.is_err() {
                self.from.work.roll_back().await;
            }
            // What follows hinders nobody, and others may have their turn.
            drop(turn);
            let error = match attempted {
                Ok(closed) => {
                    self.conclude(&mut hosts[0], closed).await?;
                    break;
                }
                Err(error) => error,
            };
            if error.outcome() == Outcome::Unknown {
                return Err(error);
            }
            // Before it is waited for the target, which may be what was too slow.
            run.tell(MoveStep::FenceTables, &format!("tried {attempt} times: {error}"));
            // The source is still the home.
            self.within_cap(self.take_back()).await?;
            if !is_passing(&error) || attempt >= ATTEMPTS {
                return Err(error);
            }
            sleep(pause).await;
            self.within_cap(self.check_hosts(&mut hosts, CHECK_HOSTS)).await?;
            attempt += 1;
            lock = lock.mul_f64(1.25).min(LOCK.1);
            pause = (pause * 2).min(PAUSE.1);
        }
        self.await_unsealed(&mut hosts[1]).await
    }

    /// Waits for something, as long as the source may keep the WAL. On the way back there is no such limit.
    async fn within_cap<T>(&self, waits: impl Future<Output = Result<T>>) -> Result<T> {
        if self.stream == self.run.names.forward {
            Box::pin(self.run.within_cap(waits)).await
        } else {
            waits.await
        }
    }

    /// Waits until no host would be waited for when the source is closed.
    async fn check_hosts(&self, hosts: &mut [Hosts<'_>; 2], patience: Duration) -> Result<()> {
        for hosts in hosts {
            hosts.check(patience, |waits| self.run.tell(MoveStep::CheckHosts, waits)).await?;
        }
        Ok(())
    }

    /// What an earlier run has left to do after it closed the source.
    pub(super) async fn go_on(&self) -> Result<()> {
        const GENERATION: &str = "SELECT generation FROM howdah.identity";

        let connector = &self.run.mover.connector;
        let mut source_hosts = Hosts::connect(connector, self.from).await;
        let mut target_hosts = Hosts::connect(connector, self.to).await;
        self.prepare_unsealing_again().await?;
        let row = self.from.watch.one(GENERATION, &[], "cannot read the generation").await?;
        let is_dropped = self.from.epochs(self.run.report.shard).await?.is_empty();
        self.conclude(&mut source_hosts, Closed { generation: row.get(0), is_dropped }).await?;
        self.await_unsealed(&mut target_hosts).await
    }

    /// From the source's commit on: the target is unsealed, and everybody learns of it.
    async fn conclude(&self, source_hosts: &mut Hosts<'_>, closed: Closed) -> Result<()> {
        let run = self.run;
        let [old, new] = self.schemas();
        run.event_begin(MoveStep::AwaitSourceHosts);
        let tell = |waits: &str| run.tell(MoveStep::AwaitSourceHosts, waits);
        if closed.is_dropped {
            source_hosts.have_dropped([&old, &new], SOURCE_HOSTS, tell).await?;
        } else {
            source_hosts.have_renamed([&old, &new], SOURCE_HOSTS, tell).await?;
        }
        if self.from.work.is_lost() {
            // Whoever answers under its address now may be another that lacks the last commit: the facts are looked at anew.
            let lost = format!("{} was lost when it had closed the shard", self.from.name);
            return Err(Error::new(Kind::Unavailable, lost).hint("resume the move"));
        }
        run.event_end(MoveStep::AwaitSourceHosts);

        self.unseal_target().await?;

        run.event_begin(MoveStep::ChangeHome);
        let tell = |waits: &str| run.tell(MoveStep::ChangeHome, waits);
        run.journal.change_home(&run.report, &self.change(closed.generation), tell).await?;
        if let Some(began) = run.fence_ends() {
            run.journal.set_fence(&run.report, began.elapsed()).await?;
        }
        run.end(MoveStep::ChangeHome).await
    }

    /// What the catalog is to learn, with the generation that the source has then.
    fn change(&self, generation: i64) -> Change<'_> {
        let (from, to) = ((&self.from.name, self.old), (&self.to.name, self.new));
        Change { shard: self.run.report.shard, from, to, generation }
    }

    /// Waits for our turn, with the target close behind. Who cannot keep up leaves the turn to others meanwhile.
    async fn turn(&self) -> Result<MutexGuard<'_, ()>> {
        let began = Instant::now();
        let turn = async {
            loop {
                self.catch_up(CLOSE_BEHIND.1, CATCH_UP).await?;
                // One fence at a time: two on one server would wait for each other's row in the identity.
                let turn = self.run.mover.fencing.lock().await;
                match self.catch_up(CLOSE_BEHIND.0, TURN).await {
                    Err(error) if error.is_timeout() && began.elapsed() < CATCH_UP => drop(turn),
                    caught_up => return caught_up.map(|()| turn),
                }
            }
        };
        self.within_cap(turn).await
    }

    /// Waits until the target is so close behind, at first, that the fence will be short.
    async fn catch_up(&self, close: Duration, patience: Duration) -> Result<()> {
        let [old, _] = self.schemas();
        let began = Instant::now();
        loop {
            let id = self.run.report.id.get();
            let (_, lag) =
                stream::mark(self.from, self.to, self.stream, (&old, id), patience).await?;
            self.run.lag(MoveStep::FenceTables, lag);
            // Where writers do not rest it varies, and the fence lasts that much longer: a good moment is worth two seconds.
            if lag <= (began.elapsed() / 32).clamp(close, CLOSE_BEHIND.1) {
                return Ok(());
            }
            if began.elapsed() > patience {
                return Err(Error::new(
                    Kind::Timeout,
                    format!("{} stays {lag:?} behind {}", self.to.name, self.from.name),
                )
                .hint("move the shard when less is written, then resume"));
            }
        }
    }

    /// Once: up to the commit that closes the source.
    async fn attempt(
        &self,
        relations: &Relations,
        findings: &Findings,
        lock: Duration,
        hosts: &mut [Hosts<'_>; 2],
    ) -> Result<Closed> {
        // One may have gone while we waited for our turn, or since the last attempt; others do not wait for it with us.
        self.check_hosts(hosts, CHECK_HOSTS_AGAIN).await?;
        let prepared = self.prepare(relations, findings).await?;
        let began = Instant::now();
        self.run.fence_begins(began);
        let fenced = timeout(FENCE, self.fence(relations, findings, &prepared, lock)).await;
        let (sequences, mark) = fenced.map_err(|_| too_slow("the fence", FENCE))??;
        let [_, new] = self.schemas();
        let opens = sequences::open(&new, &sequences);
        let open_target = async {
            let position = self.rename_target(&prepared.functions, &opens).await?;
            try_join!(
                self.prepare_unsealing(relations, &opens),
                self.before_closing(&mut hosts[1], mark, position)
            )
        };
        let ready = async { try_join!(self.prepare_closing(&prepared), open_target) };
        let ready = timeout(READY, ready).await;
        let (generation, _) = ready.map_err(|_| too_slow("what follows the fence", READY))??;
        self.close_source(generation).await
    }

    /// Takes the locks that hurt nobody, and reads what does not change under them.
    async fn prepare(&self, relations: &Relations, findings: &Findings) -> Result<Prepared> {
        let [old, _] = self.schemas();
        // For the first time while it hurts nobody: what fails there fails here, and what is asked in the fence is prepared.
        self.recheck(relations).await?;
        self.check_way_back().await?;
        let (journal, report) = (&self.run.journal, &self.run.report);
        journal.rehearse_cutover(report, &self.change(0), self.reverse).await?;
        journal.prove_free(&self.change(0)).await?;
        let begin = format!(
            "BEGIN; SET LOCAL idle_in_transaction_session_timeout = '{GENTLE_IDLE}'; \
             SET LOCAL lock_timeout = '{GENTLE_LOCK}'; {}",
            relations.lock(&old, "SHARE UPDATE EXCLUSIVE")
        );
        let what = "cannot lock the shard's tables";
        try_join!(self.from.work.batch(&begin, what), self.to.work.batch(&begin, what))?;
        let with_views = self.from.major == self.to.major;
        let structure = Structure::read(&self.from.work, &old, with_views).await?;
        if let Some(changed) = findings.structure.difference(&structure) {
            return Err(Error::refused(format!(
                "the shard's schema was changed after it was verified: {changed}"
            ))
            .hint(
                "howdah's migrations keep away; who changed it by hand? resume, or abort the move",
            ));
        }
        let sequences = sequences::read(&self.from.work, &old, &relations.sequences, "").await?;
        let functions = seal::functions_naming(&self.from.work, &old).await?;
        let idle = format!("SET LOCAL idle_in_transaction_session_timeout = '{IDLE}'");
        try_join!(self.from.work.batch(&idle, what), self.to.work.batch(&idle, what))?;
        Ok(Prepared { sequences, functions })
    }

    /// What is written at the new home has to be kept for the old one.
    async fn check_way_back(&self) -> Result<()> {
        if !self.reverse || stream::is_whole(self.to, &self.run.names.reverse).await? {
            return Ok(());
        }
        let lost = "the slot of the way back is lost (max_slot_wal_keep_size)";
        Err(Error::refused(lost)
            .at(&self.to.name)
            .hint(format!("`howdah moves resume {}` makes another one", self.run.report.id)))
    }

    /// Closes the source as far as a transaction can, and waits until the target has everything, up to the mark returned.
    async fn fence(
        &self,
        relations: &Relations,
        findings: &Findings,
        prepared: &Prepared,
        lock: Duration,
    ) -> Result<(Vec<Sequence>, i64)> {
        let run = self.run;
        let [old, _] = self.schemas();
        let (from, to) = (self.from, self.to);
        run.event_begin(MoveStep::FenceTables);
        let limits = format!(
            "SET LOCAL lock_timeout = {}; SET LOCAL statement_timeout = {}; ",
            lock.as_millis(),
            FENCE.as_millis()
        );
        let tables = format!("{limits}{}", relations.lock(&old, "EXCLUSIVE"));
        let lock_tables = async {
            from.work.batch(&tables, "cannot fence the shard's tables").await?;
            run.event_end(MoveStep::FenceTables);
            run.event_begin(MoveStep::FenceSequences);
            Ok(())
        };
        // Sent right behind, in the same session: the server does one after the other, and nobody waits for us in between.
        let lock_sequences = sequences::lock(&old, &prepared.sequences);
        let lock_sequences =
            sequences::read(&from.work, &old, &relations.sequences, &lock_sequences);
        let ((), sequences) = try_join!(lock_tables, lock_sequences)?;
        run.event_end(MoveStep::FenceSequences);

        // What guards the source counts when it is closed, and until then one may fail as well as the other.
        let guard = async {
            run.event_begin(MoveStep::GuardSource);
            let guard =
                format!("{}{}", sequences::seal(&old, &sequences), seal::guard(&old, relations));
            from.work.batch(&guard, "cannot guard the shard's tables and sequences").await?;
            run.event_end(MoveStep::GuardSource);
            Ok(())
        };
        let recheck = async {
            run.event_begin(MoveStep::Recheck);
            self.recheck(relations).await?;
            run.event_end(MoveStep::Recheck);
            Ok(())
        };
        let drain = async {
            run.event_begin(MoveStep::Drain);
            let id = run.report.id.get();
            let (mark, _) = stream::mark(from, to, self.stream, (&old, id), FENCE).await?;
            let pair = Pair { home: from, copy: to, stream: self.stream, schema: &old, id };
            if let Some(difference) = pair.compare_hot(findings).await? {
                return Err(run.differ(&difference));
            }
            run.event_end(MoveStep::Drain);
            Ok(mark)
        };
        let ((), (), mark) = try_join!(guard, recheck, drain)?;
        Ok((sequences, mark))
    }

    /// What is locked is what was verified, published and subscribed. Asked in sessions that nothing else waits for then.
    async fn recheck(&self, relations: &Relations) -> Result<()> {
        const PUBLISHED: &str = "SELECT c.relname::text FROM pg_publication p \
            JOIN pg_publication_rel r ON r.prpubid = p.oid JOIN pg_class c ON c.oid = r.prrelid \
            WHERE p.pubname = $1 AND c.relnamespace = to_regnamespace($2) AND c.relname <> $3 \
              AND r.prqual IS NULL AND r.prattrs IS NULL";

        let [old, _] = self.schemas();
        let params: [&(dyn tokio_postgres::types::ToSql + Sync); 3] =
            [&self.stream, &old, &MARK_TABLE];
        let (now, published, (subscribed, ready)) = try_join!(
            Relations::read(&self.from.mover, &old),
            self.from.mover.rows(PUBLISHED, &params, "cannot read the publication"),
            stream::readiness(self.to, self.stream),
        )?;
        let names: Vec<&str> = relations.with_rows().map(|table| table.name.as_str()).collect();
        if now != *relations {
            let added: Vec<_> = now
                .tables
                .iter()
                .filter(|table| !relations.tables.contains(table))
                .map(|table| table.name.as_str())
                .chain(
                    now.sequences
                        .iter()
                        .filter(|name| !relations.sequences.contains(name))
                        .map(String::as_str),
                )
                .collect();
            return Err(Error::refused(format!(
                "the shard's tables were changed during the move: {}",
                if added.is_empty() { "some are gone".into() } else { added.join(", ") }
            ))
            .hint("abort the move, then begin it anew"));
        }
        let mut published: Vec<String> = published.iter().map(|row| row.get(0)).collect();
        published.sort_unstable();
        let mut wanted = names.clone();
        wanted.sort_unstable();
        let expected = i64::try_from(names.len() + 1).unwrap_or(i64::MAX);
        if published != wanted || subscribed != expected || ready != expected {
            return Err(Error::refused(format!(
                "{} tables are published and {ready} of {subscribed} follow, of {} in all",
                published.len() + 1,
                expected
            ))
            .hint("somebody changed the publication or the subscription: abort the move, then begin it anew"));
        }
        Ok(())
    }

    /// What must be known while everything can still be undone.
    async fn before_closing(
        &self,
        target_hosts: &mut Hosts<'_>,
        mark: i64,
        position: PgLsn,
    ) -> Result<()> {
        let run = self.run;
        let [old, new] = self.schemas();
        let note = async {
            if self.reverse {
                run.event_begin(MoveStep::NotePosition);
                run.journal.set_position(&run.report, position).await?;
                run.event_end(MoveStep::NotePosition);
            }
            Ok(())
        };
        // Without the catalog the shard would have no home for long. Sent ahead of the position, in the same session: it waits for
        // nobody's locks for long.
        let change = self.change(0);
        let free = run.journal.prove_free(&change);
        let hosts = async {
            run.event_begin(MoveStep::AwaitTargetHosts);
            let tell = |waits: &str| run.tell(MoveStep::AwaitTargetHosts, waits);
            let id = run.report.id.get();
            target_hosts.have_all([&old, &new], (id, mark), TARGET_HOSTS, tell).await?;
            run.event_end(MoveStep::AwaitTargetHosts);

            // Behind the hosts, since they may take a while.
            run.event_begin(MoveStep::RecheckTimelines);
            let (from, to) = try_join!(self.from.server_now(), self.to.server_now())?;
            if from != self.from.server || to != self.to.server {
                return Err(run.void());
            }
            run.event_end(MoveStep::RecheckTimelines);
            Ok(())
        };
        try_join!(free, note, hosts).map(|_| ())
    }

    /// Does all that closes the source, but for the commit: the schema is renamed and the generation raised in the transaction
    /// that holds the fence. Returns the generation.
    async fn prepare_closing(&self, prepared: &Prepared) -> Result<i64> {
        let [old, new] = self.schemas();
        let close = format!(
            "{}{}UPDATE howdah.identity SET generation = generation + 1 RETURNING generation",
            seal::comment(&old, Some(&self.run.names.comment)),
            seal::rename(&old, &new, &prepared.functions),
        );
        let rows = self.from.work.batch_rows(&close, CANNOT_CLOSE).await?;
        let generation = rows.last().and_then(|row| row.get(0)?.parse().ok());
        generation.ok_or_else(|| Error::system("the source did not tell its generation"))
    }

    async fn close_source(&self, generation: i64) -> Result<Closed> {
        self.run.event_begin(MoveStep::CloseSource);
        // In a transaction that failed COMMIT would be a roll-back without an error; the setting is one. And the fence's limit
        // must not cut short the wait for a synchronous standby, which the commit would survive.
        self.from.work.batch("SET LOCAL statement_timeout = 0; COMMIT", CANNOT_CLOSE).await?;
        self.run.event_end(MoveStep::CloseSource);
        Ok(Closed { generation, is_dropped: false })
    }
}

fn too_slow(what: &str, limit: Duration) -> Error {
    Error::new(Kind::Timeout, format!("{what} took more than {limit:?}"))
}

/// Whether an attempt failed for something that passes: others held locks, or the target was too far behind.
fn is_passing(error: &Error) -> bool {
    error.is_timeout() || error.is_conflict() || error.code().is_some_and(is_in_use)
}
