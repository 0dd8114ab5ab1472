//! A pretrained encoder that a cold start begins with.
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use tidegate_contracts::ArtifactHash;
use tidegate_model::{Pretrained, Upcycling};

use crate::LearningError;

/// A pretrained dense encoder that a cold start begins with instead of noise. Sizes, form and
/// tokenizer are then the encoder's: of `architecture` only the context, the bytes that are read, the
/// wide path and the front-ends of other parts are looked at. Its files are pinned by their BLAKE3, so that the generation's
/// recipe says exactly where its weights came from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EncoderFiles {
    /// Holds `config.json`, `model.safetensors` and `tokenizer.json`; relative to where the process
    /// was started.
    pub folder: PathBuf,
    /// Of `config.json`.
    pub config: ArtifactHash,
    /// Of `model.safetensors`.
    pub model: ArtifactHash,
    /// Of `tokenizer.json`.
    pub tokenizer: ArtifactHash,
    /// What becomes of its feed-forwards; left out, they stay as they are.
    #[serde(default)]
    pub upcycling: Upcycling,
}

impl EncoderFiles {
    /// Reads the files and compares their hashes.
    ///
    /// # Errors
    /// [`LearningError::EncoderFile`] names the file that cannot be read, or is another one;
    /// [`LearningError::Model`] what in it is wrong.
    pub(crate) fn read(&self) -> Result<Pretrained, LearningError> {
        let pinned = [self.config, self.model, self.tokenizer];
        let mut files = BTreeMap::new();
        for (name, pinned) in Pretrained::FILES.into_iter().zip(pinned) {
            let path = self.folder.join(name);
            let bytes = fs::read(&path).map_err(|error| wrong(&path, error))?;
            let found = ArtifactHash::of(&bytes);
            if found != pinned {
                let reason = format!(
                    "its BLAKE3 is {}, and the recipe pins {}: put the pinned file there, or pin \
                     this one",
                    found.to_hex(),
                    pinned.to_hex()
                );
                return Err(wrong(&path, reason));
            }
            files.insert(name.to_owned(), bytes.into());
        }
        Ok(Pretrained::from_files(&files)?)
    }
}

fn wrong(path: &Path, reason: impl ToString) -> LearningError {
    LearningError::EncoderFile { path: path.to_owned(), reason: reason.to_string() }
}
