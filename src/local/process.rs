//! The processes of a server: which they are, whether they run, and signals to them.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::Command;
use tokio::time::sleep;

use crate::{Error, Result};

/// How often we look whether a process has ended.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// How long killed processes may take to be gone.
const KILL_PATIENCE: Duration = Duration::from_secs(10);

/// How long a server may take from its program's start to writing down its number: it does little before.
const START_PATIENCE: Duration = Duration::from_secs(10);

/// A server's first process, and the port it listens on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Running {
    pub(super) pid: Pid,
    pub(super) port: Option<u16>,
}

/// The server that runs on a data folder.
///
/// The file with its number outlives a crash, and the number may by then belong to somebody else: the process
/// must also have been started on this very folder. (Its arguments are readable by all; its working folder is
/// not, even for root, in many containers.)
pub(super) fn postmaster(data: &Path) -> Option<Running> {
    let file = fs::read_to_string(data.join("postmaster.pid")).ok()?;
    let pid = Pid::from_raw(file.lines().next()?.trim().parse().ok().filter(|pid| *pid > 1)?);
    let port = file.lines().nth(3).and_then(|line| line.trim().parse().ok());
    serves(pid, data).then_some(Running { pid, port })
}

/// Waits while a server on this data folder is being started by a program whose caller was interrupted: until it has
/// written down its number, or has failed.
///
/// Only Linux tells what others run; elsewhere there is nothing to wait for.
pub(super) async fn started(data: &Path) {
    let start = Instant::now();
    while postmaster(data).is_none() && is_starting(data) && start.elapsed() < START_PATIENCE {
        sleep(LOOK_AGAIN).await;
    }
}

/// Waits while a running server is still starting: it says in its file when it is not any more.
pub(super) async fn ready(data: &Path, patience: Duration) {
    let start = Instant::now();
    let is_ready = || {
        let file = fs::read_to_string(data.join("postmaster.pid")).unwrap_or_default();
        file.lines().nth(7).is_some_and(|status| ["ready", "standby"].contains(&status.trim()))
    };
    while postmaster(data).is_some() && !is_ready() && start.elapsed() < patience {
        sleep(LOOK_AGAIN).await;
    }
}

/// Whether a program of PostgreSQL, or the shell through which one starts another, has this folder among its arguments.
fn is_starting(data: &Path) -> bool {
    let data = data.as_os_str().as_encoded_bytes();
    let starts = |command: &[u8]| {
        let program = command.split(|byte| *byte == 0).next().unwrap_or_default();
        let name = program.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        [&b"postgres"[..], b"pg_ctl", b"sh"].contains(&name)
            && command.windows(data.len()).any(|part| part == data)
    };
    fs::read_dir("/proc").is_ok_and(|entries| {
        entries
            .flatten()
            .filter_map(|entry| fs::read(entry.path().join("cmdline")).ok())
            .any(|command| starts(&command))
    })
}

fn serves(pid: Pid, data: &Path) -> bool {
    let (command, data) = (command_of(pid), data.as_os_str().as_encoded_bytes());
    if cfg!(target_os = "linux") {
        command.split(|byte| *byte == 0).any(|argument| argument == data)
    } else {
        has_word(&command, data)
    }
}

/// The program and its arguments: on Linux each with a zero at its end, elsewhere a line with blanks between them. Empty
/// from the moment when a process begins to end.
fn command_of(pid: Pid) -> Vec<u8> {
    if cfg!(target_os = "linux") {
        fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default()
    } else {
        let mut ps = std::process::Command::new("ps");
        ps.args(["-ww", "-o", "args=", "-p", &pid.to_string()]).stdin(Stdio::null());
        ps.output().map(|output| output.stdout).unwrap_or_default()
    }
}

/// Whether a text stands in a line with blanks around it; it may have blanks in it.
fn has_word(line: &[u8], word: &[u8]) -> bool {
    let is_blank = |byte: Option<&u8>| byte.is_none_or(u8::is_ascii_whitespace);
    line.windows(word.len()).enumerate().any(|(at, part)| {
        let before = at.checked_sub(1).and_then(|before| line.get(before));
        part == word && is_blank(before) && is_blank(line.get(at + word.len()))
    })
}

/// Ends a server at once, without a word: every process of it gets SIGKILL, as in a power failure.
pub(super) async fn kill_all(pid: Pid, data: &Path) -> Result<()> {
    // Stopped, it neither starts children while we list them nor notices that they die.
    signal(pid, Signal::SIGSTOP)?;
    let children = children(pid).await?;
    for process in children.iter().chain([&pid]) {
        signal(*process, Signal::SIGKILL)?;
    }
    gone(pid, data, KILL_PATIENCE).await?;
    // Until the last of them has let go of the shared memory, the server cannot be started again.
    let start = Instant::now();
    while children.iter().any(|child| !has_ended(*child)) && start.elapsed() < KILL_PATIENCE {
        sleep(LOOK_AGAIN).await;
    }
    Ok(())
}

/// Halts all processes of a server where they are.
pub(super) async fn suspend(pid: Pid) -> Result<()> {
    // First the one that starts the others.
    signal(pid, Signal::SIGSTOP)?;
    for child in children(pid).await? {
        signal(child, Signal::SIGSTOP)?;
    }
    Ok(())
}

/// Lets the processes of a server go on that were halted.
pub(super) async fn resume(pid: Pid) -> Result<()> {
    for child in children(pid).await? {
        signal(child, Signal::SIGCONT)?;
    }
    signal(pid, Signal::SIGCONT)
}

/// Asks a server to end and waits until it has. One that is halted could not hear it.
pub(super) async fn end(pid: Pid, data: &Path, how: Signal, patience: Duration) -> Result<()> {
    signal(pid, how)?;
    resume(pid).await?;
    gone(pid, data, patience).await
}

/// Tells a server to read its settings anew.
pub(super) fn reload(pid: Pid) -> Result<()> {
    signal(pid, Signal::SIGHUP)
}

/// Waits until a server has ended; it deletes the file with its number a little before, and loses its arguments before it
/// lets go of its memory and its sockets.
async fn gone(pid: Pid, data: &Path, patience: Duration) -> Result<()> {
    let start = Instant::now();
    let is_another = || !command_of(pid).is_empty() && !serves(pid, data);
    while postmaster(data).is_some() || !(has_ended(pid) || is_another()) {
        if start.elapsed() > patience {
            return Err(Error::system(format!(
                "the server on {} has not ended within {} s",
                data.display(),
                patience.as_secs()
            )));
        }
        sleep(LOOK_AGAIN).await;
    }
    Ok(())
}

/// Sends a signal; a process that has ended by itself meanwhile is no error.
fn signal(pid: Pid, signal: Signal) -> Result<()> {
    match kill(pid, signal) {
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        Err(error) => {
            Err(Error::system(format!("cannot send {signal} to process {pid}")).because(error))
        }
    }
}

/// The processes that a process has started.
async fn children(parent: Pid) -> Result<Vec<Pid>> {
    if cfg!(target_os = "linux") {
        let entries = fs::read_dir("/proc")
            .map_err(|error| Error::system("cannot list the processes").because(error))?;
        let numbers =
            entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        Ok(numbers.map(Pid::from_raw).filter(|pid| parent_of(*pid) == Some(parent)).collect())
    } else {
        let mut ps = Command::new("ps");
        ps.args(["-A", "-o", "ppid=,pid="]).kill_on_drop(true);
        let listed = run(ps)
            .await
            .map_err(|reason| Error::system(format!("cannot list the processes: {reason}")))?;
        let pairs = listed.lines().filter_map(|line| line.trim().split_once(' '));
        Ok(pairs
            .filter(|(of, _)| of.parse() == Ok(parent.as_raw()))
            .filter_map(|(_, pid)| pid.trim().parse().ok().map(Pid::from_raw))
            .collect())
    }
}

/// Whether a process holds nothing any more, be its parent still to ask how it ended.
fn has_ended(pid: Pid) -> bool {
    if cfg!(target_os = "linux") {
        stat(pid).is_none_or(|(state, _)| ["Z", "X"].contains(&state.as_str()))
    } else {
        kill(pid, None) == Err(Errno::ESRCH)
    }
}

fn parent_of(pid: Pid) -> Option<Pid> {
    stat(pid).map(|(_, parent)| parent)
}

/// State and parent as /proc says: the first two fields after the name, which stands in parentheses and may hold any.
fn stat(pid: Pid) -> Option<(String, Pid)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace();
    Some((fields.next()?.to_owned(), Pid::from_raw(fields.next()?.parse().ok()?)))
}

/// Runs a program to its end: what it printed, or why it failed, in one line.
pub(super) async fn run(mut command: Command) -> Result<String, String> {
    let name = command.as_std().get_program().to_string_lossy().into_owned();
    let output = command.output().await.map_err(|error| format!("{name}: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(telling_line(&said).unwrap_or_else(|| format!("{name}: {}", output.status)))
}

/// Of what a program of PostgreSQL wrote, the last line that says why it gave up.
pub(super) fn telling_line(said: &str) -> Option<String> {
    let lines = || said.lines().rev().map(str::trim).filter(|line| !line.is_empty());
    let telling = ["FATAL:", "PANIC:", "ERROR:", "error:"];
    lines()
        .find(|line| telling.iter().any(|word| line.contains(word)))
        .or_else(|| lines().next())
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_servers_folder_is_told_from_others_of_like_names() {
        let line = b"/usr/bin/postgres -D /tmp/my data/pg1/data -p 5432\n";
        assert!(has_word(line, b"/tmp/my data/pg1/data"));
        assert!(has_word(b"postgres -D /data\n", b"/data") && has_word(b"/data", b"/data"));
        for other in ["/tmp/my data/pg1", "/tmp/my data/pg1/data2", "/pg1/data", "/data"] {
            assert!(!has_word(line, other.as_bytes()), "{other}");
        }
        assert!(!has_word(b"", b"/data"));
    }
}
