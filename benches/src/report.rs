//! Taking the pairs, and writing them down.

#![allow(clippy::print_stdout, reason = "a benchmark tells on the terminal what it found")]

use std::path::PathBuf;

use serde_json::{Map, Value, json};

use crate::sample::{Sample, median, rounded, sides};
use crate::{Result, full_or_quick, machine};

/// What a figure counts, and whether more of it is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Time for one of something, such as `ns/id`: less is better.
    Time(&'static str),
    /// So many in a time, such as `inserts/s`: more is better.
    Rate(&'static str),
}

/// One benchmark: a question, answered in rows.
#[derive(Debug)]
pub struct Bench {
    name: &'static str,
    machine: Map<String, Value>,
    rows: Vec<Value>,
    /// What a case's name must contain, where not all are wanted.
    wanted: Option<String>,
}

impl Bench {
    /// A benchmark by the name of its file.
    #[must_use]
    pub fn new(name: &'static str) -> Self {
        // Cargo itself passes `--bench`.
        let wanted = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
        let mut machine = machine::describe();
        machine.insert("pairs".to_owned(), pairs().into());
        Self { name, machine, rows: Vec::new(), wanted }
    }

    /// Whether a case is wanted: all are, unless the command line names some by a part of their names.
    #[must_use]
    pub fn wants(&self, case: &str) -> bool {
        self.wanted.as_ref().is_none_or(|wanted| case.contains(wanted.as_str()))
    }

    /// Adds to what is said of the machine, such as the server's version.
    pub fn note(&mut self, key: &str, value: impl Into<Value>) {
        self.machine.insert(key.to_owned(), value.into());
    }

    /// Measures ours beside a peer's, in pairs, after one of each that does not count.
    ///
    /// # Errors
    ///
    /// The first of the measurements'.
    pub async fn compare(
        &mut self,
        case: &str,
        peer: &str,
        unit: Unit,
        ours: impl AsyncFnMut() -> Result<Sample>,
        theirs: impl AsyncFnMut() -> Result<Sample>,
    ) -> Result<()> {
        self.take(pairs(), case, peer, unit, ours, theirs).await
    }

    /// As [`compare`](Self::compare), where few hundredths matter: in 45 pairs, for which each sample should be short.
    ///
    /// # Errors
    ///
    /// The first of the measurements'.
    pub async fn compare_closely(
        &mut self,
        case: &str,
        peer: &str,
        unit: Unit,
        ours: impl AsyncFnMut() -> Result<Sample>,
        theirs: impl AsyncFnMut() -> Result<Sample>,
    ) -> Result<()> {
        self.take(full_or_quick(45, pairs()), case, peer, unit, ours, theirs).await
    }

    async fn take(
        &mut self,
        pairs: u32,
        case: &str,
        peer: &str,
        unit: Unit,
        mut ours: impl AsyncFnMut() -> Result<Sample>,
        mut theirs: impl AsyncFnMut() -> Result<Sample>,
    ) -> Result<()> {
        if !self.wants(case) {
            return Ok(());
        }
        ours().await?;
        theirs().await?;
        let (mut our_samples, mut their_samples) = (Vec::new(), Vec::new());
        for pair in 0..pairs {
            // Whoever comes second may profit from the first, or suffer: each does half the time.
            if pair % 2 == 0 {
                our_samples.push(ours().await?);
                their_samples.push(theirs().await?);
            } else {
                their_samples.push(theirs().await?);
                our_samples.push(ours().await?);
            }
        }
        self.add(case, peer, unit, &our_samples, &their_samples);
        Ok(())
    }

    fn add(&mut self, case: &str, peer: &str, unit: Unit, ours: &[Sample], theirs: &[Sample]) {
        let values = |samples: &[Sample]| samples.iter().map(|sample| sample.value).collect();
        let ratios: Vec<f64> = ours
            .iter()
            .zip(theirs)
            .map(|(ours, theirs)| match unit {
                Unit::Time(_) => theirs.value / ours.value,
                Unit::Rate(_) => ours.value / theirs.value,
            })
            .collect();
        let (Unit::Time(unit) | Unit::Rate(unit)) = unit;
        let least = ratios.iter().copied().fold(f64::INFINITY, f64::min);
        let greatest = ratios.iter().copied().fold(0.0, f64::max);
        let mut row = Map::new();
        row.insert("case".into(), case.into());
        row.insert("ours".into(), rounded(median(values(ours))));
        row.insert("peer".into(), peer.into());
        row.insert("theirs".into(), rounded(median(values(theirs))));
        row.insert("pairs".into(), ratios.len().into());
        row.insert("ratio".into(), rounded(median(ratios)));
        row.insert("spread".into(), json!([rounded(least), rounded(greatest)]));
        row.insert("unit".into(), unit.into());
        row.extend(sides(ours, ""));
        row.extend(sides(theirs, "theirs_"));
        let row = Value::Object(row);
        println!("{row}");
        self.rows.push(row);
    }

    /// Writes `target/bench/NAME.json`, if all cases were measured.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub fn write(self) -> Result<()> {
        if self.wanted.is_some() {
            return Ok(());
        }
        let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(
            || [env!("CARGO_MANIFEST_DIR"), "..", "target"].iter().collect(),
            PathBuf::from,
        );
        let folder = target.join("bench");
        std::fs::create_dir_all(&folder)?;
        let file = folder.join(self.name).with_extension("json");
        let report = json!({ "bench": self.name, "machine": self.machine, "rows": self.rows });
        std::fs::write(&file, format!("{report:#}\n"))?;
        println!("written to {}", file.display());
        Ok(())
    }
}

/// How often ours and a peer's are measured in turn.
fn pairs() -> u32 {
    full_or_quick(9, 3)
}
