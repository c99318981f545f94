//! A move that meets a fault at one of its steps, and the same command again until it is done.

use std::fmt::Debug;
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

/// Which command takes the steps.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Way {
    There,
    Back,
    End,
    Abort,
}

/// A step on one of the ways.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Point {
    pub(crate) step: MoveStep,
    pub(crate) way: Way,
}

impl Point {
    pub(crate) fn there(step: MoveStep) -> Self {
        Self { step, way: Way::There }
    }

    pub(crate) fn back(step: MoveStep) -> Self {
        Self { step, way: Way::Back }
    }

    /// Every step of every way.
    pub(crate) fn all() -> Vec<Self> {
        use MoveStep::{
            AdvanceReverse, DropCopy, DropForward, DropReverse, LockServers, NotePosition,
            StartReverse, Verify,
        };
        let of = |way, is_of: fn(MoveStep) -> bool| {
            let steps = MoveStep::ALL.into_iter().filter(move |step| is_of(*step));
            steps.map(move |step| Self { step, way })
        };
        let there = of(Way::There, |step| step < DropReverse);
        // The copy is there, and no stream follows.
        let back = of(Way::Back, |step| {
            let not_back = [NotePosition, DropForward, AdvanceReverse, StartReverse];
            step == LockServers || step >= Verify && !not_back.contains(&step)
        });
        let end = of(Way::End, |step| [LockServers, DropReverse, DropCopy].contains(&step));
        let abort = of(Way::Abort, |step| {
            [LockServers, DropForward, DropReverse, DropCopy].contains(&step)
        });
        there.chain(back).chain(end).chain(abort).collect()
    }

    /// Of a mover that was told to go this way.
    pub(crate) fn is_begun_by(self, event: &MoveEvent) -> bool {
        self.is_of(event) && matches!(event.what, MoveNews::Begun)
    }

    pub(crate) fn is_done_by(self, event: &MoveEvent) -> bool {
        self.is_of(event) && matches!(event.what, MoveNews::Done)
    }

    fn is_of(self, event: &MoveEvent) -> bool {
        (event.step, event.back) == (self.step, self.way == Way::Back)
    }
}

/// What a mover is told.
#[derive(Debug, Clone)]
pub(crate) enum Command {
    Go(InstanceName),
    Finish(MoveId),
    RollBack(MoveId),
    Abort(MoveId),
}

impl Command {
    /// The command in which a point lies; what has to come before it is done.
    pub(crate) async fn reaching(point: Point, config: &Config, to: &InstanceName) -> Result<Self> {
        let (mover, go) = (Mover::new(config)?, Self::Go(to.clone()));
        Ok(match point.way {
            Way::There => go,
            Way::Back => Self::RollBack(go.give(&mover).await?.id),
            Way::End => Self::Finish(go.give(&mover).await?.id),
            Way::Abort => {
                // All that an abort can find has been made.
                let last = Point::there(MoveStep::CloseSource);
                Standing::at(last, config, &go).await?.die().await;
                Self::Abort(mover.open_move(shard()).await?.expect("it has not ended").id)
            }
        })
    }

    pub(crate) async fn give(&self, mover: &Mover) -> Result<MoveReport> {
        match self {
            Self::Go(to) => mover.run(shard(), to).await,
            Self::Finish(id) => mover.finish(*id).await,
            Self::RollBack(id) => mover.rollback(*id).await,
            Self::Abort(id) => mover.abort(*id).await,
        }
    }

    /// How far a move is that has done it.
    pub(crate) fn phase(&self) -> MovePhase {
        match self {
            Self::Go(_) => MovePhase::Reversible,
            Self::Finish(_) => MovePhase::Finished,
            Self::RollBack(_) => MovePhase::RolledBack,
            Self::Abort(_) => MovePhase::Aborted,
        }
    }

    /// Gives the command, again where a server or the network needs a moment more, then compares both copies and ends the
    /// move. `first` is how it went before.
    pub(crate) async fn complete(&self, mover: &Mover, first: &impl Debug) -> Result<()> {
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
        assert_eq!(moved.phase, self.phase(), "{self:?}");
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
