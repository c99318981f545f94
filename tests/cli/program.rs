//! Runs the program, and holds what every run owes: one line on stderr when it fails, and no more.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Stdio};

use howdah::testing::TestCluster;
use serde_json::Value;
use tempfile::TempDir;

/// A folder to run in, with no configuration unless one is put there.
pub(crate) struct Folder(TempDir);

/// How a run ended.
pub(crate) struct Ran {
    pub(crate) status: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Folder {
    pub(crate) fn empty() -> Self {
        Self(TempDir::new().unwrap())
    }

    /// With a `howdah.toml` that leads to the cluster.
    pub(crate) fn of(test: &TestCluster) -> Self {
        let folder = Self::empty();
        let dsn = test.servers().dsn("pg1", "howdah_app").unwrap();
        folder.write("howdah.toml", &format!("[catalog]\ndsn = \"{dsn}\"\n"));
        folder
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        let path = self.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// The program, ready to run here, with nothing of howdah's in its environment.
    pub(crate) fn command<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_howdah"));
        command.args(args).current_dir(self.path()).stdin(Stdio::null());
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("HOWDAH_") {
                command.env_remove(name);
            }
        }
        command
    }

    pub(crate) fn run<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Ran {
        Ran::of(&mut self.command(args))
    }

    /// The document that a run with `--json` prints.
    pub(crate) fn json<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Value {
        let ran = Ran::of(self.command(args).arg("--json"));
        assert_eq!(ran.status, 0, "{}", ran.stderr);
        ran.document()
    }
}

impl Ran {
    pub(crate) fn of(command: &mut Command) -> Self {
        let output = command.output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Self {
            status: output.status.code().unwrap(),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        }
    }

    pub(crate) fn document(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap()
    }

    /// The one line of an error.
    pub(crate) fn error(&self) -> &str {
        let lines: Vec<_> = self.stderr.lines().collect();
        assert_eq!(lines.len(), 1, "{}", self.stderr);
        assert!(lines[0].starts_with("error: "), "{}", self.stderr);
        assert_eq!(self.stdout, "");
        lines[0]
    }
}
