//! Runs that are done, in a file: a long trial that was stopped goes on after the last of them.
use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions},
    io::{Read as _, Seek as _, SeekFrom, Write as _},
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
#[derive(Serialize, Deserialize)]
pub(super) struct Run {
    /// What it took, with the training of its champion where it was the first with it.
    pub(super) seconds: f64,
    pub(super) twins: BTreeMap<Twin, Judged>,
}

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

    /// Reads what is there, or begins it. A line that was cut off while it was written is forgotten; a
    /// file that is no trial's is left as it is.
    pub(super) fn open(path: &Path, terms: &Terms) -> anyhow::Result<Self> {
        let place = || path.display().to_string();
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false).open(path);
        let mut file = file.with_context(place)?;
        let mut text = String::new();
        file.read_to_string(&mut text).with_context(place)?;
        let end = text.rfind('\n').map_or(0, |at| at + 1);
        let mut kept = Self { file: Some(file), runs: Vec::new() };
        if text.is_empty() {
            kept.write(terms)?;
            return Ok(kept);
        }
        let mut lines = text[..end].lines();
        let had = lines.next().and_then(|line| serde_json::from_str::<Terms>(line).ok());
        let had = had.with_context(|| format!("{} is no file that a trial keeps", place()))?;
        anyhow::ensure!(
            had == *terms,
            "{} keeps runs of another trial (other suite, seed, twins or program): name another file, \
             or remove it",
            place()
        );
        for line in lines {
            let run: Run = serde_json::from_str(line).with_context(place)?;
            let whole = terms.twins.iter().all(|twin| run.twins.contains_key(twin));
            anyhow::ensure!(whole, "{}: a run lacks a twin: remove the file", place());
            kept.runs.push(run);
        }
        if let Some(file) = &mut kept.file {
            file.set_len(end as u64)?;
            file.seek(SeekFrom::Start(end as u64))?;
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
