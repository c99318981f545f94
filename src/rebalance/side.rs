//! One of the two servers of a move, with the sessions that a mover has there.

use super::journal::ServerId;
use super::names::schema_at;
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
    /// The major version of PostgreSQL.
    pub(super) major: i32,
    /// The server as it was when we came.
    pub(super) server: ServerId,
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
            major: version.get::<_, i32>(0) / 10_000,
            server,
        })
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
