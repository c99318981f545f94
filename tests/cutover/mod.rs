//! What a cutover changes, without the move around it.

use howdah::testing::TestCluster;

/// Gives a shard the next epoch where it is, and the map a version that says so, without telling anybody.
pub(crate) async fn cut_over(test: &TestCluster, shard: u16) {
    let catalog = test.admin("pg1").await.unwrap();
    let home = "SELECT instance, epoch FROM howdah.home WHERE shard = $1";
    let home = catalog.query_one(home, &[&i32::from(shard)]).await.unwrap();
    let (instance, epoch): (String, i32) = (home.get(0), home.get(1));
    let rename =
        format!("ALTER SCHEMA shard_{shard:04}_e{epoch} RENAME TO shard_{shard:04}_e{}", epoch + 1);
    test.admin(&instance).await.unwrap().batch_execute(&rename).await.unwrap();
    let change = format!(
        "UPDATE howdah.home SET epoch = epoch + 1 WHERE shard = {shard};
         UPDATE howdah.cluster SET map_version = map_version + 1"
    );
    catalog.batch_execute(&change).await.unwrap();
}
