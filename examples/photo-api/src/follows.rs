//! `/api/users/{name}/follow`: who follows whom, kept on both users' shards.
//!
//! A feed starts from the follower's half; the followed user's tells who follows back. One transaction over shards writes
//! both or neither, so following and unfollowing take both shards.

use axum::extract::State;
use axum::http::StatusCode;
use howdah::{Id, Statement};

use crate::App;
use crate::input::UserName;
use crate::problem::{Kind, Problem};
use crate::sessions::Viewer;
use crate::users::{self, Person};

/// How many a user may follow. It bounds what a feed asks of each shard; people who mean it need fewer.
pub(crate) const MAX_FOLLOWED: i32 = 5000;

/// `PUT /api/users/{name}/follow`
pub(crate) async fn add(
    State(app): State<App>,
    Viewer(viewer): Viewer,
    name: UserName,
) -> Result<StatusCode, Problem> {
    follow(&app, &viewer, &name).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(crate) async fn follow(app: &App, viewer: &Person, name: &UserName) -> Result<(), Problem> {
    // The row and its count change in one statement; neither does where the row is there already.
    const FOLLOW: Statement = Statement::new(
        "WITH added AS (
             INSERT INTO {shard}.follows (follower_id, followee_id, followee_name)
             SELECT id, $2, $3 FROM {shard}.users WHERE id = $1 AND following < $4
             ON CONFLICT DO NOTHING RETURNING follower_id)
         UPDATE {shard}.users u SET following = following + 1 FROM added WHERE u.id = added.follower_id",
    );

    const FOLLOWED: Statement = Statement::new(
        "INSERT INTO {shard}.followers (followee_id, follower_id) VALUES ($1, $2) ON CONFLICT DO NOTHING",
    );

    let followee = users::find(app, name).await?;
    if followee.id == viewer.id {
        return Err(Problem::invalid("You cannot follow yourself."));
    }
    let own = app.cluster.shard_of_id(viewer.id)?;
    let theirs = app.cluster.shard_of_id(followee.id)?;
    let added = app
        .cluster
        .transaction(async |tx| {
            let added = tx
                .on(&own)
                .await?
                .execute(&FOLLOW, &[&viewer.id, &followee.id, &followee.name, &MAX_FOLLOWED])
                .await?;
            if added > 0 {
                tx.on(&theirs).await?.execute(&FOLLOWED, &[&followee.id, &viewer.id]).await?;
            }
            Ok(added)
        })
        .await?;
    if added == 0 && !is_following(app, viewer, followee.id).await? {
        return Err(Kind::TooManyFollowed.into());
    }
    Ok(())
}

pub(crate) async fn is_following(
    app: &App,
    viewer: &Person,
    followee: Id,
) -> Result<bool, Problem> {
    const FOLLOWS: Statement =
        Statement::new("SELECT FROM {shard}.follows WHERE follower_id = $1 AND followee_id = $2");

    let shard = app.cluster.shard_of_id(viewer.id)?;
    Ok(shard.query_opt(&FOLLOWS, &[&viewer.id, &followee]).await?.is_some())
}

/// `DELETE /api/users/{name}/follow`
pub(crate) async fn delete(
    State(app): State<App>,
    Viewer(viewer): Viewer,
    name: UserName,
) -> Result<StatusCode, Problem> {
    unfollow(&app, &viewer, &name).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(crate) async fn unfollow(app: &App, viewer: &Person, name: &UserName) -> Result<(), Problem> {
    const UNFOLLOW: Statement = Statement::new(
        "WITH removed AS (
             DELETE FROM {shard}.follows WHERE follower_id = $1 AND followee_id = $2
             RETURNING follower_id)
         UPDATE {shard}.users u SET following = following - 1 FROM removed WHERE u.id = removed.follower_id",
    );
    const UNFOLLOWED: Statement =
        Statement::new("DELETE FROM {shard}.followers WHERE followee_id = $1 AND follower_id = $2");

    let followee = users::find(app, name).await?;
    let own = app.cluster.shard_of_id(viewer.id)?;
    let theirs = app.cluster.shard_of_id(followee.id)?;
    app.cluster
        .transaction(async |tx| {
            tx.on(&own).await?.execute(&UNFOLLOW, &[&viewer.id, &followee.id]).await?;
            tx.on(&theirs).await?.execute(&UNFOLLOWED, &[&followee.id, &viewer.id]).await
        })
        .await?;
    Ok(())
}

/// Whether somebody follows the viewer, which is told by the viewer's own shard.
pub(crate) async fn is_followed_by(
    app: &App,
    viewer: &Person,
    follower: Id,
) -> Result<bool, Problem> {
    const FOLLOWED: Statement =
        Statement::new("SELECT FROM {shard}.followers WHERE followee_id = $1 AND follower_id = $2");

    let shard = app.cluster.shard_of_id(viewer.id)?;
    Ok(shard.query_opt(&FOLLOWED, &[&viewer.id, &follower]).await?.is_some())
}
