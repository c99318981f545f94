//! A move that meets a fault at one of its steps, and the same command again until it is done.

use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use howdah::testing::until;
use howdah::{Config, InstanceName, MoveEvent, MoveId, MoveNews, MovePhase, MoveReport, MoveStep};
use howdah::{Mover, Result};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::shard;

/// How long a move may take to get there once everything runs again.
const PATIENCE: Duration = Duration::from_secs(90);

/// A step of the way there, its end included, or of the way back.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Point {
    pub(crate) step: MoveStep,
    pub(crate) back: bool,
}

impl Point {
    /// Every step, there and back.
    pub(crate) fn all() -> Vec<Self> {
        let there = MoveStep::ALL.map(|step| Self { step, back: false });
        // The copy is there, and no stream follows.
        let back = MoveStep::ALL.into_iter().filter(|step| {
            *step >= MoveStep::Verify
                && !matches!(
                    step,
                    MoveStep::NotePosition
                        | MoveStep::DropForward
                        | MoveStep::AdvanceReverse
                        | MoveStep::StartReverse
                )
        });
        there.into_iter().chain(back.map(|step| Self { step, back: true })).collect()
    }

    pub(crate) fn is_begun_by(self, event: &MoveEvent) -> bool {
        (event.step, event.back) == (self.step, self.back) && matches!(event.what, MoveNews::Begun)
    }

    /// Whether it lies in the end of a move, by a command of its own.
    pub(crate) fn is_of_end(self) -> bool {
        !self.back && matches!(self.step, MoveStep::DropReverse | MoveStep::DropCopy)
    }
}

/// What a mover is told.
#[derive(Debug, Clone)]
pub(crate) enum Command {
    Go(InstanceName),
    Finish(MoveId),
    RollBack(MoveId),
}

impl Command {
    /// The command in which a point lies; what has to come before it is done.
    pub(crate) async fn reaching(point: Point, mover: &Mover, to: &InstanceName) -> Result<Self> {
        let go = Self::Go(to.clone());
        if !point.back && !point.is_of_end() {
            return Ok(go);
        }
        let id = go.give(mover).await?.id;
        Ok(if point.back { Self::RollBack(id) } else { Self::Finish(id) })
    }

    async fn give(&self, mover: &Mover) -> Result<MoveReport> {
        match self {
            Self::Go(to) => mover.run(shard(), to).await,
            Self::Finish(id) => mover.finish(*id).await,
            Self::RollBack(id) => mover.rollback(*id).await,
        }
    }

    /// Gives the command, again where a server or the network needs a moment more, then compares both copies and ends the
    /// move. `first` is how it went before.
    pub(crate) async fn complete(&self, mover: &Mover, first: &Result<MoveReport>) -> Result<()> {
        let began = Instant::now();
        let moved = loop {
            match self.give(mover).await {
                Ok(moved) => break moved,
                Err(error) if error.is_unavailable() && began.elapsed() < PATIENCE => {
                    eprintln!("{error}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                Err(error) => panic!("{self:?}: {error}; the first time: {first:?}"),
            }
        };
        let rest = match self {
            Self::Go(_) => MovePhase::Reversible,
            Self::Finish(_) => MovePhase::Finished,
            Self::RollBack(_) => MovePhase::RolledBack,
        };
        assert_eq!(moved.phase, rest, "{self:?}");
        if moved.phase == MovePhase::Reversible {
            mover.verify(shard()).await?;
            mover.finish(moved.id).await?;
        }
        Ok(())
    }
}

/// A mover that stands at a point, and waits there to be let go.
pub(crate) struct Standing {
    let_go: mpsc::Sender<()>,
    run: JoinHandle<Result<MoveReport>>,
    /// What it has told of its steps, in words.
    notes: Arc<Mutex<Vec<String>>>,
}

impl Standing {
    pub(crate) async fn at(point: Point, config: &Config, command: &Command) -> Result<Self> {
        let (reached, at_point) = oneshot::channel();
        let (let_go, gone_on) = mpsc::channel::<()>();
        let meeting = Mutex::new(Some((reached, gone_on)));
        let notes = Arc::new(Mutex::new(Vec::new()));
        let told = notes.clone();
        let mover = Mover::new(config)?.on_event(move |event| {
            if let MoveNews::Note(note) = &event.what {
                told.lock().unwrap().push(note.clone());
            }
            if point.is_begun_by(event)
                && let Some((reached, gone_on)) = meeting.lock().unwrap().take()
            {
                let _ = reached.send(());
                tokio::task::block_in_place(|| gone_on.recv().unwrap());
            }
        });
        let command = command.clone();
        let mut run = tokio::spawn(async move { command.give(&mover).await });
        tokio::select! {
            reached = at_point => reached.unwrap(),
            ended = &mut run => panic!("it ended before {point:?}: {ended:?}"),
        }
        Ok(Self { let_go, run, notes })
    }

    pub(crate) fn go(&self) {
        self.let_go.send(()).unwrap();
    }

    /// Waits until it has told something.
    pub(crate) async fn tells(&self, what: &str) {
        until(what, async || {
            let notes = self.notes.lock().unwrap();
            (notes.iter().any(|note| note.contains(what)), notes.clone())
        })
        .await;
    }

    /// Waits for its end, which may be that it has given up, for so long.
    pub(crate) async fn ends_within(&mut self, time: Duration) -> bool {
        tokio::time::timeout(time, async {
            while !self.run.is_finished() {
                tokio::time::sleep(Duration::from_millis(5)).await
            }
        })
        .await
        .is_ok()
    }

    /// Lets it die where it stands.
    pub(crate) async fn die(self) {
        drop(self.let_go);
        assert!(self.run.await.unwrap_err().is_panic());
    }

    /// Stops it wherever it is.
    pub(crate) async fn stop(self) {
        self.run.abort();
        assert!(self.run.await.unwrap_err().is_cancelled(), "it had ended");
    }

    pub(crate) async fn end(self) -> Result<MoveReport> {
        self.run.await.unwrap()
    }
}
