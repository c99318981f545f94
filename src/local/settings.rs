//! The settings of a development server, and the roles and the database that it begins with.

use std::fmt::Write;
use std::path::Path;

/// The superuser that a server is made with.
pub(super) const SUPERUSER: &str = "postgres";

/// The roles and the database, for the single-user mode: one statement a line.
pub(super) const ROLES: &str = "\
CREATE ROLE howdah_owner LOGIN CREATEROLE
CREATE ROLE howdah_mover LOGIN SUPERUSER REPLICATION
CREATE ROLE howdah_app LOGIN
CREATE DATABASE howdah OWNER howdah_owner
";

/// Included by `postgresql.conf`, so that whatever a person adds behind it, or by `ALTER SYSTEM`, has the last word.
pub(super) const FILE: &str = "howdah.conf";

/// What varies from server to server.
#[derive(Debug)]
pub(super) struct Settings<'a> {
    pub(super) name: &'a str,
    pub(super) major: u32,
    pub(super) port: u16,
    pub(super) sockets: &'a Path,
    pub(super) durable: bool,
    /// The port of the server that it replicates, in the same socket folder.
    pub(super) upstream: Option<u16>,
}

impl Settings<'_> {
    /// The text of the file.
    pub(super) fn text(&self) -> String {
        let sockets = self.sockets.display().to_string();
        let mut text = format!(
            "# Written by howdah at every start; put changes into postgresql.conf, below the include.\n\
             cluster_name = {name}\n\
             listen_addresses = '127.0.0.1'\n\
             port = {port}\n\
             unix_socket_directories = {sockets}\n\
             max_connections = 200\n\
             max_locks_per_transaction = 256\n\
             {LOGICAL}",
            name = quoted(self.name),
            port = self.port,
            // Commas separate several folders, but for those within these quotes.
            sockets = quoted(&format!("\"{}\"", sockets.replace('"', "\"\""))),
        );
        if self.major >= 18 {
            // Up to 17, max_replication_slots limits these too.
            text.push_str("max_active_replication_origins = 32\n");
        }
        text.push_str(if self.durable { DURABLE } else { FLEETING });
        if let Some(port) = self.upstream {
            let from = format!(
                "host='{}' port={port} user={SUPERUSER} application_name={}",
                sockets.replace('\\', "\\\\").replace('\'', "\\'"),
                self.name
            );
            let _ = writeln!(text, "primary_conninfo = {}", quoted(&from));
        }
        text
    }
}

/// What moves between servers and two-phase commits need, in both directions and several at once.
const LOGICAL: &str = "\
wal_level = logical
max_wal_senders = 32
max_replication_slots = 32
max_slot_wal_keep_size = '8GB'
max_logical_replication_workers = 16
max_worker_processes = 32
max_prepared_transactions = 100
hot_standby = on
wal_retrieve_retry_interval = '100ms'
";

/// For data that a person means to keep.
const DURABLE: &str = "\
fsync = on
wal_keep_size = '256MB'
shared_buffers = '128MB'
";

/// For tests: nothing outlives the machine's next crash, and nothing is left in /dev/shm by a server that was killed.
const FLEETING: &str = "\
fsync = off
full_page_writes = off
shared_buffers = '16MB'
max_wal_size = '256MB'
min_wal_size = '32MB'
wal_keep_size = '64MB'
dynamic_shared_memory_type = mmap
";

/// A value as PostgreSQL's settings files write it.
fn quoted(value: &str) -> String {
    format!("'{}'", value.replace('\\', "\\\\").replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_characters_stay_within_their_quotes() {
        let settings = Settings {
            name: "pg1-r1",
            major: 18,
            port: 20001,
            sockets: Path::new("/tmp/it's here"),
            durable: true,
            upstream: Some(20000),
        };
        let text = settings.text();
        assert!(text.contains("unix_socket_directories = '\"/tmp/it''s here\"'\n"), "{text}");
        assert!(
            text.contains(r"primary_conninfo = 'host=''/tmp/it\\''s here'' port=20000"),
            "{text}"
        );
    }
}
