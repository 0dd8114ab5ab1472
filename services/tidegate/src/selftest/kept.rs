//! Runs that are done, in a file: a long trial that was stopped goes on after the last of them.
use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions},
    io::{BufRead as _, BufReader, Seek as _, SeekFrom, Write as _},
    path::Path,
};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use tidegate_contracts::ArtifactHash;

use super::{trial::Judged, twins::Twin};

/// What runs must have in common to be counted together; the first line of the file.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Terms {
    pub(super) suite: ArtifactHash,
    pub(super) seed: u64,
    pub(super) runs_a_champion: u32,
    pub(super) twins: Vec<Twin>,
    /// BLAKE3 of the program that tries.
    pub(super) program: String,
}

/// All twins of one run.
pub(super) type Run = BTreeMap<Twin, Judged>;

/// The file, open at its end.
pub(super) struct Kept {
    file: Option<File>,
    pub(super) runs: Vec<Run>,
}

impl Kept {
    /// Nothing is kept.
    pub(super) const fn nowhere() -> Self {
        Self { file: None, runs: Vec::new() }
    }

    /// Reads what is there, or begins it. A line that was cut off while it was written is forgotten.
    pub(super) fn open(path: &Path, terms: &Terms) -> anyhow::Result<Self> {
        let place = || path.display().to_string();
        let mut options = OpenOptions::new();
        let mut file = options.read(true).write(true).create(true).truncate(false).open(path);
        let file = file.as_mut().map_err(|error| anyhow::anyhow!("{}: {error}", place()))?;
        let mut reader = BufReader::new(file.try_clone()?);
        let (mut lines, mut end) = (Vec::new(), 0);
        let mut line = String::new();
        while reader.read_line(&mut line).with_context(place)? > 0 && line.ends_with('\n') {
            end += line.len() as u64;
            lines.push(std::mem::take(&mut line));
        }
        file.set_len(end)?;
        file.seek(SeekFrom::Start(end))?;
        let mut kept = Self { file: Some(file.try_clone()?), runs: Vec::new() };
        let Some((first, runs)) = lines.split_first() else {
            kept.write(terms)?;
            return Ok(kept);
        };
        let had: Terms = serde_json::from_str(first).with_context(place)?;
        anyhow::ensure!(
            had == *terms,
            "{} keeps runs of another trial (other suite, seed, twins or program): name another file, \
             or remove it",
            place()
        );
        for line in runs {
            kept.runs.push(serde_json::from_str(line).with_context(place)?);
        }
        Ok(kept)
    }

    pub(super) fn add(&mut self, run: Run) -> anyhow::Result<()> {
        self.write(&run)?;
        self.runs.push(run);
        Ok(())
    }

    fn write(&mut self, line: &impl Serialize) -> anyhow::Result<()> {
        let Some(file) = &mut self.file else { return Ok(()) };
        let mut line = serde_json::to_vec(line)?;
        line.push(b'\n');
        file.write_all(&line)?;
        file.sync_data()?;
        Ok(())
    }
}

/// Of the running program.
pub(super) fn program() -> anyhow::Result<String> {
    let mut hash = blake3::Hasher::new();
    hash.update_reader(File::open(std::env::current_exe()?)?)?;
    Ok(hash.finalize().to_hex().to_string())
}
