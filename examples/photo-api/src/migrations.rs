//! The tables of a shard: the files of `migrations/`, as part of the program.

use howdah::{Migrations, Result};

/// All of them, for [`Migrations::up`].
///
/// # Errors
///
/// When a file is not a migration, which a test rules out.
pub fn migrations() -> Result<Migrations> {
    Migrations::new([
        ("0001_users.sql", include_str!("../migrations/0001_users.sql")),
        ("0002_photos.sql", include_str!("../migrations/0002_photos.sql")),
        ("0003_follows.sql", include_str!("../migrations/0003_follows.sql")),
        ("0004_likes_and_comments.sql", include_str!("../migrations/0004_likes_and_comments.sql")),
        ("0005_both_shards.sql", include_str!("../migrations/0005_both_shards.sql")),
        ("0006_discarded_files.sql", include_str!("../migrations/0006_discarded_files.sql")),
    ])
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_file_is_part_of_the_program() {
        let files = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/migrations")).unwrap();
        assert_eq!(super::migrations().unwrap().len(), files.count());
    }
}
