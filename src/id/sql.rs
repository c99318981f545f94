//! The SQL of the database's clock and of a shard's schema, with the layout's numbers put in.
//!
//! A placeholder is a colon and a name, as psql writes variables. What is put for one is a number, or a schema's
//! name that is made of numbers, so nothing needs quoting.

use super::Layout;
use crate::shard::Home;

/// What every instance's database needs before it can hold shards; see `sql/clock.sql`.
pub(crate) fn clock_sql(layout: &Layout) -> String {
    with_layout(include_str!("../../sql/clock.sql"), layout)
}

/// The schema of one shard at its home, but for the application's tables; see `sql/shard.sql`.
pub(crate) fn shard_sql(layout: &Layout, home: &Home) -> String {
    with_layout(include_str!("../../sql/shard.sql"), layout)
        .replace(":schema", &home.schema())
        .replace(":shard", &home.shard().to_string())
}

/// Longer names first: one placeholder begins with another's name.
fn with_layout(template: &str, layout: &Layout) -> String {
    template
        .replace(":epoch_ms", &layout.epoch_ms().to_string())
        .replace(":shard_bits", &layout.shard_bits().to_string())
        .replace(":sequence_bits", &layout.sequence_bits().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Epoch, InstanceName, ShardId};

    #[test]
    fn no_placeholder_is_left() {
        let layout = Layout::default();
        let home = Home::new(
            ShardId::new(42).unwrap(),
            InstanceName::new("pg1").unwrap(),
            Epoch::new(3).unwrap(),
        );
        for sql in [clock_sql(&layout), shard_sql(&layout, &home)] {
            let code: String = sql
                .lines()
                .filter(|line| !line.trim_start().starts_with("--"))
                .flat_map(|line| [line, "\n"])
                .collect();
            let code = code.replace("::", "").replace(":=", "");
            assert!(!code.contains(':'), "{code}");
        }
        assert!(shard_sql(&layout, &home).contains("CREATE SCHEMA IF NOT EXISTS shard_0042_e3;"));
        assert!(shard_sql(&layout, &home).contains("= 42;"));
        assert!(shard_sql(&layout, &home).contains("'shard_0042_e3.howdah_block', 42);"));
    }
}
