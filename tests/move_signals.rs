//! A mover is a program. Killed at any step, it goes on when it is run again; stopped by Ctrl-C at any step, it leaves
//! nothing half done. Either way nothing is lost, nothing is done twice, and nothing is left behind.
//!
//! `make torture` does it at every step of every command; else it is a sample.
#![cfg(test)]

mod moving;
#[path = "cli/program.rs"]
#[allow(dead_code, reason = "each test uses a part of it")]
mod program;
mod torture;

use std::os::unix::process::ExitStatusExt as _;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use howdah::testing::{TestCluster, until};
use howdah::{InstanceName, MoveStep, Result};
use moving::fault::{Command, Point, Way};
use moving::{Load, cluster_with_tables, leftovers, shard};
use program::Folder;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStderr};
use torture::Random;

/// How often a program may come to its end before the signal comes to it.
const TRIES: usize = 8;
/// How long after it has told of a step, at most, it gets the signal.
const LATER_MS: usize = 15;

/// The words of a command.
fn words(command: &Command) -> Vec<String> {
    let about = |word: &str, id| vec!["moves".into(), word.into(), format!("{id}")];
    match command {
        Command::Go(to) => vec!["move".into(), "1".into(), "--to".into(), to.to_string()],
        Command::Finish(id) => about("finish", id),
        Command::RollBack(id) => about("rollback", id),
        Command::Abort(id) => about("abort", id),
    }
}

/// The program at work.
struct Running {
    program: Child,
    told: Lines<BufReader<ChildStderr>>,
}

impl Running {
    fn start(folder: &Folder, command: &Command) -> Self {
        let mut program = tokio::process::Command::from(folder.command(words(command)));
        program.arg("--json").stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut program = program.spawn().unwrap();
        let told = BufReader::new(program.stderr.take().unwrap()).lines();
        Self { program, told }
    }

    /// Waits until it tells that it begins a step.
    async fn comes_to(&mut self, point: Point) {
        let wanted = json!([point.step.as_str(), point.way == Way::Back, "begun"]);
        while let Some(line) = self.told.next_line().await.unwrap() {
            let event: Value = serde_json::from_str(&line).expect(&line);
            if json!([event["step"], event["back"], event["event"]]) == wanted {
                return;
            }
        }
        panic!("it ended before {point:?}");
    }

    /// Sends it a signal. How it ended, and its last line.
    async fn end_by(mut self, signal: &str) -> (ExitStatus, String) {
        // One that has ended is still there to be waited for.
        let pid = self.program.id().unwrap().to_string();
        let sent = tokio::process::Command::new("kill").args([signal, &pid]).status().await;
        assert!(sent.unwrap().success());
        let mut last = String::new();
        while let Some(line) = self.told.next_line().await.unwrap() {
            last = line;
        }
        (self.program.wait().await.unwrap(), last)
    }
}

/// Runs the program to its end. How far the move is then.
fn phase_after(folder: &Folder, command: &Command) -> String {
    let shown = tokio::task::block_in_place(|| folder.json(words(command)));
    let report = shown.get(0).unwrap_or(&shown);
    report["phase"].as_str().unwrap().to_owned()
}

/// A shard whose move a signal has hit, at home somewhere.
struct Hit<'a> {
    test: &'a TestCluster,
    folder: Folder,
    random: Random,
}

impl<'a> Hit<'a> {
    fn new(test: &'a TestCluster) -> Self {
        Self { test, folder: Folder::of(test), random: Random::of_this_run() }
    }

    /// Gives the command in which a point lies, and the signal when it is there, or a moment later.
    async fn at(&mut self, point: Point, signal: &str) -> Result<(Command, ExitStatus, String)> {
        let home = self.test.cluster().await?.shard(shard())?.home()?.instance().clone();
        let to = InstanceName::new(if home.as_str() == "pg1" { "pg2" } else { "pg1" })?;
        let command = Command::reaching(point, &self.test.config(), &to).await?;
        let mut running = Running::start(&self.folder, &command);
        running.comes_to(point).await;
        let later = self.random.below(LATER_MS);
        // Half of them at once.
        if later % 2 == 1 {
            tokio::time::sleep(Duration::from_millis(later as u64)).await;
        }
        let (status, last) = running.end_by(signal).await;
        Ok((command, status, last))
    }

    /// Ends a move that has come to its rest: its copies are equal, and nothing is left of it.
    async fn end(&self, phase: &str) -> Result<()> {
        if phase == "reversible" {
            tokio::task::block_in_place(|| {
                assert_eq!(self.folder.json(["verify", "1"])["verified"], true);
                assert_eq!(self.folder.json(["moves", "finish", "1"])["phase"], "finished");
            });
        }
        assert_eq!(leftovers(self.test).await?, Vec::<String>::new());
        for name in self.test.servers().names() {
            let admin = self.test.admin(name).await?;
            until("no session of a mover is left, nor of what it started", async || {
                let sessions = "SELECT concat_ws(' ', usename, application_name, state, query) FROM pg_stat_activity \
                    WHERE datname = current_database() AND usename IN ('howdah_owner', 'howdah_mover')";
                let rows = admin.query(sessions, &[]).await.unwrap();
                let left: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
                (left.is_empty(), left)
            })
            .await;
        }
        Ok(())
    }

    /// It is killed at a point, and the same command is given again.
    async fn kill(&mut self, point: Point) -> Result<()> {
        for _ in 0..TRIES {
            let (command, status, last) = self.at(point, "-KILL").await?;
            let phase = phase_after(&self.folder, &command);
            assert_eq!(phase, command.phase().as_str(), "{point:?}");
            self.end(&phase).await?;
            if status.signal().is_some() {
                eprintln!("killed after {last}");
                return Ok(());
            }
            assert!(status.success(), "{point:?}: {status} {last}");
        }
        panic!("{point:?}: it was never killed before its end");
    }

    /// Ctrl-C is pressed at a point.
    async fn interrupt(&mut self, point: Point) -> Result<()> {
        for _ in 0..TRIES {
            let (_, status, last) = self.at(point, "-INT").await?;
            // It listens from its first event on.
            let code = status.code().unwrap_or_else(|| panic!("{point:?}: {status} {last}"));
            let moves = tokio::task::block_in_place(|| self.folder.json(["moves", "list"]));
            let last_move = &moves[0];
            let phase = last_move["phase"].as_str().unwrap_or("none");
            if code == 0 {
                // It was at its end.
                self.end(phase).await?;
                continue;
            }
            assert!(code == 1 && last.contains("stopped; nothing is half done"), "{code} {last}");
            let rests: &[&str] = match point.way {
                Way::There if point.step <= MoveStep::Journal => &["none", "aborted", "reversible"],
                Way::There if point.step <= MoveStep::CloseSource => &["aborted", "reversible"],
                Way::There => &["reversible"],
                Way::Back if point.step <= MoveStep::CloseSource => &["reversible", "rolled_back"],
                Way::Back => &["rolled_back"],
                Way::End if point.step == MoveStep::LockServers => &["reversible", "finished"],
                Way::End => &["finished"],
                Way::Abort => &["aborted"],
            };
            assert!(rests.contains(&phase), "{point:?}: {last_move}");
            eprintln!("stopped: {phase}");
            return self.end(phase).await;
        }
        panic!("{point:?}: it always came to its end before it was stopped");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_program_that_is_killed_at_any_step_goes_on_when_it_is_run_again() -> Result<()> {
    let test = cluster_with_tables()?.start().await?;
    let load = Load::start(&test, 4).await?;
    let mut hit = Hit::new(&test);
    let chosen = hit.random.sample(&Point::all(), 3);
    for point in &chosen {
        eprintln!("{point:?}");
        hit.kill(*point).await?;
    }
    load.go_on_for(Duration::from_millis(100)).await;
    let mut ledger = load.stop().await;
    ledger.check(&test.cluster().await?.shard(shard())?).await?;
    // As long as the shard has no home, until the program goes on, a client may lose patience.
    let nowhere = MoveStep::FenceTables..=MoveStep::ChangeHome;
    if chosen.iter().any(|point| nowhere.contains(&point.step)) {
        ledger.errors.retain(|error| !error.starts_with("NotExecuted"));
    }
    assert_eq!(ledger.errors, Vec::<String>::new());
    assert!(ledger.written.len() > 50, "{}", ledger.written.len());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn ctrl_c_at_any_step_leaves_nothing_half_done() -> Result<()> {
    let test = cluster_with_tables()?.start().await?;
    let load = Load::start(&test, 4).await?;
    let mut hit = Hit::new(&test);
    for point in hit.random.sample(&Point::all(), 3) {
        eprintln!("{point:?}");
        hit.interrupt(point).await?;
    }
    load.go_on_for(Duration::from_millis(100)).await;
    let ledger = load.stop().await;
    ledger.check(&test.cluster().await?.shard(shard())?).await?;
    assert_eq!(ledger.errors, Vec::<String>::new());
    assert!(ledger.written.len() > 50, "{}", ledger.written.len());
    Ok(())
}
