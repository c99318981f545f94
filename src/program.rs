//! PostgreSQL's own programs, as this process runs them.

use tokio::process::Command;

/// Takes from a program's environment what directs somebody's own clients and servers (PGHOST, PGSERVICE, PGOPTIONS, PGDATA…):
/// it must not direct ours.
pub(crate) fn undirect(program: &mut Command) {
    for (name, _) in std::env::vars_os() {
        if name.as_encoded_bytes().starts_with(b"PG") {
            program.env_remove(name);
        }
    }
}
