//! One of the two servers of a move, with the sessions that a mover has there.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use super::exported::Exporter;
use super::names::schema_at;
use super::programs::Programs;
use super::report::ServerId;
use super::session::Session;
use crate::catalog::Snapshot;
use crate::config::Dsn;
use crate::connect::{Connector, Identity, Role};
use crate::schema::lock::lock;
use crate::shard::{Epoch, InstanceName, ShardId};
use crate::{Error, Result};

/// An instance that takes part in a move.
#[derive(Debug)]
pub(super) struct Side {
    pub(super) name: InstanceName,
    pub(super) dsn: Dsn,
    pub(super) identity: Identity,
    /// Holds the shard's lock, and does what must not go on without it: the fence, the opening of a copy.
    pub(super) work: Session,
    /// Looks and marks beside it.
    pub(super) watch: Session,
    /// Has the rights for slots and subscriptions.
    pub(super) mover: Session,
    /// Reads the rows of a snapshot, which nothing else can be asked meanwhile.
    reader: Mutex<Option<Session>>,
    /// Makes slots with their snapshots.
    exporter: Mutex<Option<Exporter>>,
    /// The major version of PostgreSQL.
    pub(super) major: i32,
    /// The server as it was when we came.
    pub(super) server: ServerId,
    pub(super) opened: Instant,
}

/// Which server it is, and which history of it we see.
const SERVER: &str = "SELECT system_identifier::text, \
    ('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::int \
    FROM pg_control_system()";

impl Side {
    /// Logs in three times. Nothing is locked yet.
    pub(super) async fn connect(
        connector: &Connector,
        snapshot: &Snapshot,
        name: &InstanceName,
    ) -> Result<Self> {
        let (name, record) = snapshot.instances.get_key_value(name).ok_or_else(|| {
            Error::input(format!("there is no instance {name}"))
                .hint("`howdah instance list` shows them")
        })?;
        let identity = snapshot.identity(name, record);
        let open = |role| Session::open(connector, &record.dsn, &identity, role);
        let (work, watch, mover) =
            futures_util::try_join!(open(Role::Owner), open(Role::Owner), open(Role::Mover))?;
        let version = work
            .one("SELECT current_setting('server_version_num')::int", &[], "cannot ask the server")
            .await?;
        let server = read_server(&work).await?;
        Ok(Self {
            name: name.clone(),
            dsn: record.dsn.clone(),
            identity,
            work,
            watch,
            mover,
            reader: Mutex::default(),
            exporter: Mutex::default(),
            major: version.get::<_, i32>(0) / 10_000,
            server,
            opened: Instant::now(),
        })
    }

    /// Uses it for another move, if it still leads to the instance that the catalog has.
    pub(super) async fn take_up(mut self, snapshot: &Snapshot) -> Option<Self> {
        let record = snapshot.instances.get(&self.name).filter(|record| record.dsn == self.dsn)?;
        if [&self.work, &self.watch, &self.mover].into_iter().any(Session::is_lost) {
            return None;
        }
        self.identity = snapshot.identity(&self.name, record);
        self.work.greet(&self.identity).await.ok()?;
        self.server = read_server(&self.work).await.ok()?;
        Some(self)
    }

    /// Gives back all locks. What remains may be used for another move.
    pub(super) async fn unlock(&self) -> Result<()> {
        for session in [&self.work, &self.watch, &self.mover] {
            session.forget_statements();
        }
        let unlock = "ROLLBACK; SELECT pg_advisory_unlock_all()";
        self.work.batch(unlock, "cannot give the shard's lock back").await
    }

    /// A psql for slots with their snapshots.
    pub(super) fn open_exporter(
        &self,
        programs: &Programs,
        connector: &Connector,
    ) -> Result<Exporter> {
        let kept = self.exporter.lock().unwrap_or_else(PoisonError::into_inner).take();
        kept.map_or_else(|| Exporter::open(programs, connector, self), Ok)
    }

    /// Keeps one that has done its work.
    pub(super) fn keep_exporter(&self, exporter: Exporter) {
        *self.exporter.lock().unwrap_or_else(PoisonError::into_inner) = Some(exporter);
    }

    /// A session of its own to read rows with: one that is given up is closed, however many rows are on their way.
    pub(super) async fn open_reader(&self, connector: &Connector) -> Result<Session> {
        let kept = self.reader.lock().unwrap_or_else(PoisonError::into_inner).take();
        match kept {
            Some(kept) => Ok(kept),
            None => {
                let reader =
                    Session::open(connector, &self.dsn, &self.identity, Role::Owner).await?;
                // Rows that are held up by their pace, or by the target, are no sign that the mover is gone: it answers
                // keepalives.
                let patient = "SET tcp_user_timeout = 0";
                reader.batch(patient, "cannot set up the session").await?;
                Ok(reader)
            }
        }
    }

    /// Keeps one that has done its work.
    pub(super) fn keep_reader(&self, reader: Session) {
        *self.reader.lock().unwrap_or_else(PoisonError::into_inner) = Some(reader);
    }

    /// Takes the shard's lock, which ends with the session that it is held by. So whoever has it knows that what the holder
    /// before had sent is decided.
    pub(super) async fn lock(&self, shard: ShardId) -> Result<()> {
        lock(self.work.client(), shard).await.map_err(|error| error.at(&self.name))
    }

    /// Which server answers now, and whether it has been promoted since.
    pub(super) async fn server_now(&self) -> Result<ServerId> {
        read_server(&self.watch).await
    }

    /// The epochs of which the shard has a schema here.
    pub(super) async fn epochs(&self, shard: ShardId) -> Result<Vec<Epoch>> {
        const SCHEMAS: &str =
            "SELECT nspname::text FROM pg_namespace WHERE starts_with(nspname, $1)";

        let first = schema_at(shard, Epoch::FIRST, &self.name);
        let prefix = first.trim_end_matches('1');
        let rows = self.work.rows(SCHEMAS, &[&prefix], "cannot look for the shard").await?;
        let epoch = |row: &tokio_postgres::Row| {
            let number = row.get::<_, &str>(0).strip_prefix(prefix)?.parse().ok()?;
            Epoch::new(number).ok()
        };
        let mut epochs: Vec<_> = rows.iter().filter_map(epoch).collect();
        epochs.sort_unstable();
        Ok(epochs)
    }

    /// The comment of a schema, which says whether it is a copy, and whose.
    pub(super) async fn comment(&self, schema: &str) -> Result<Option<String>> {
        const COMMENT: &str =
            "SELECT obj_description(oid, 'pg_namespace') FROM pg_namespace WHERE nspname = $1";

        let row = self.work.opt(COMMENT, &[&schema], "cannot look at the shard's schema").await?;
        Ok(row.and_then(|row| row.get(0)))
    }
}

async fn read_server(session: &Session) -> Result<ServerId> {
    let row = session.one(SERVER, &[], "cannot ask which server it is").await?;
    Ok(ServerId { system: row.get(0), timeline: row.get(1) })
}
