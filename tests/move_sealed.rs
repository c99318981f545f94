//! A copy obeys nobody, however it is reached, until its home is closed for good: also not in the moment in which it becomes the
//! home, when the cutover may still be given up.
#![cfg(test)]

mod moving;

use howdah::postgres::Client;
use howdah::{InstanceName, MovePhase, MoveStep, Mover, Result};
use moving::fault::{Command, Point, Standing};
use moving::{Load, cluster_with_tables, leftovers, shard};

/// Made by hand beside the old copy, after everything was looked at: they are bound to it by OID, and no rename disturbs them.
const STRAYS: &str = "
    CREATE FUNCTION public.write() RETURNS void LANGUAGE sql
    BEGIN ATOMIC DELETE FROM shard_0001_e2.users WHERE false; END;
    CREATE FUNCTION public.draw() RETURNS bigint LANGUAGE sql RETURN nextval('shard_0001_e2.howdah_id');
    SET lock_timeout = '100ms'";

/// What a write and a draw are answered that name nothing of the shard.
async fn answers(stray: &Client) -> [String; 2] {
    let mut answers = [const { String::new() }; 2];
    for (call, answer) in ["SELECT public.write()", "SELECT public.draw()"].iter().zip(&mut answers)
    {
        *answer = match stray.batch_execute(call).await {
            Ok(()) => "obeyed".to_owned(),
            Err(error) => error.code().unwrap().code().to_owned(),
        };
    }
    answers
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_got_hold_of_a_copy_is_refused_until_its_home_is_closed() -> Result<()> {
    const REFUSED: [&str; 2] = ["HW002", "2200H"];
    const MADE_TO_WAIT: &str = "55P03";

    let test = cluster_with_tables()?.start().await?;
    let mover = Mover::new(&test.config())?;
    let load = Load::start(&test, 3).await?;
    let moved = mover.run(shard(), &InstanceName::new("pg1")?).await?;
    let stray = test.admin("pg2").await?;
    stray.batch_execute(STRAYS).await.unwrap();
    assert_eq!(answers(&stray).await, REFUSED);

    let back = Command::RollBack(moved.id);
    for step in [
        MoveStep::AwaitTargetHosts,
        MoveStep::CloseSource,
        MoveStep::AwaitSourceHosts,
        MoveStep::UnsealTarget,
    ] {
        let standing = Standing::at(Point::back(step), &test.config(), &back).await?;
        for (answer, refused) in answers(&stray).await.iter().zip(REFUSED) {
            assert!([refused, MADE_TO_WAIT].contains(&answer.as_str()), "{step}: {answer}");
        }
        standing.die().await;
        // Its session may still be ending.
        let mut answer = answers(&stray).await;
        while answer.iter().any(|answer| answer == MADE_TO_WAIT) {
            answer = answers(&stray).await;
        }
        assert_eq!(answer, REFUSED, "{step}");
    }

    assert_eq!(mover.rollback(moved.id).await?.phase, MovePhase::RolledBack);
    assert_eq!(answers(&stray).await, ["obeyed"; 2], "it is the home");
    let ledger = load.stop().await;
    ledger.check(&test.cluster().await?.shard(shard())?).await?;
    assert_eq!(ledger.errors, Vec::<String>::new());
    assert_eq!(leftovers(&test).await?, Vec::<String>::new());
    Ok(())
}
