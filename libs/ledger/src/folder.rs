//! A generation as a folder of plain files: for who trains without a service, or takes a model along.
use std::{collections::BTreeMap, fs, path::Path};

use bytes::Bytes;
use tidegate_contracts::{ArtifactHash, GenerationId, Manifest};

use crate::{ArtifactError, Verified};

/// The manifest's file in such a folder; its hash is the generation's name.
pub const MANIFEST: &str = "manifest.json";

impl Verified {
    /// Reads a folder that [`write_folder`] wrote, and checks every file of it. Other files beside
    /// them are left alone.
    ///
    /// # Errors
    /// [`ArtifactError::File`] naming the file that is missing or corrupt,
    /// [`ArtifactError::Manifest`], [`ArtifactError::Store`] when there is no manifest.
    pub fn from_folder(folder: &Path) -> Result<Self, ArtifactError> {
        let bytes = read(&folder.join(MANIFEST))?;
        let generation = GenerationId::of(&bytes);
        let bad = |reason: String| ArtifactError::Manifest { generation, reason };
        let manifest: Manifest =
            serde_json::from_slice(&bytes).map_err(|error| bad(error.to_string()))?;
        let mut files = BTreeMap::new();
        for (name, entry) in &manifest.files {
            if !is_plain(name) {
                return Err(bad(format!("`{name}` is no name of a file in the folder")));
            }
            let bytes = read(&folder.join(name)).and_then(|bytes| {
                let (wanted, found) = (entry.hash, ArtifactHash::of(&bytes));
                if found == wanted {
                    Ok(bytes)
                } else {
                    Err(ArtifactError::Corrupt { wanted, found })
                }
            });
            let bytes = bytes.map_err(|error| ArtifactError::File {
                generation,
                file: name.clone(),
                source: Box::new(error),
            })?;
            files.insert(name.clone(), Bytes::from(bytes));
        }
        Ok(Self::new(generation, manifest, files))
    }
}

/// Writes a generation into `folder`, which is made when it is not there: its files first, its
/// manifest last, so that a manifest that is there names only files that are there.
///
/// # Errors
/// [`ArtifactError::Mismatch`] when manifest and files differ, or a generation is there already;
/// [`ArtifactError::Store`] when the disk fails.
pub fn write_folder(
    folder: &Path,
    manifest: &Manifest,
    files: &BTreeMap<String, Bytes>,
) -> Result<GenerationId, ArtifactError> {
    if folder.join(MANIFEST).exists() {
        let folder = folder.display();
        return Err(ArtifactError::Mismatch(format!("{folder} holds another generation already")));
    }
    let same = |(name, entry): (&String, &tidegate_contracts::FileEntry)| {
        files.get(name).is_some_and(|bytes| ArtifactHash::of(bytes) == entry.hash)
    };
    if manifest.files.len() != files.len() || !manifest.files.iter().all(same) {
        return Err(ArtifactError::Mismatch("they name other files".into()));
    }
    if let Some(name) = files.keys().find(|name| !is_plain(name)) {
        return Err(ArtifactError::Mismatch(format!("`{name}` is no name of a file in a folder")));
    }
    fs::create_dir_all(folder).map_err(|error| at(folder, &error))?;
    for (name, bytes) in files {
        write(&folder.join(name), bytes)?;
    }
    // Whole under another name first: a manifest that was cut short would name nothing.
    let (new, named) = (folder.join(format!("{MANIFEST}.tmp")), folder.join(MANIFEST));
    write(&new, &manifest.to_bytes())?;
    fs::rename(&new, &named)
        .and_then(|()| fs::File::open(folder)?.sync_all())
        .map_err(|error| at(&named, &error))?;
    Ok(manifest.id())
}

/// Whether a name stays within the folder, and is not the manifest's.
fn is_plain(name: &str) -> bool {
    name != MANIFEST && Path::new(name).file_name().is_some_and(|file| file == name)
}

fn at(path: &Path, error: &std::io::Error) -> ArtifactError {
    ArtifactError::Store(format!("{}: {error}", path.display()))
}

fn read(path: &Path) -> Result<Vec<u8>, ArtifactError> {
    fs::read(path).map_err(|error| at(path, &error))
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), ArtifactError> {
    fs::write(path, bytes)
        .and_then(|()| fs::File::open(path)?.sync_all())
        .map_err(|error| at(path, &error))
}

#[cfg(test)]
pub(crate) mod tests {
    use chrono::DateTime;
    use tidegate_contracts::{FileEntry, JobId, JobKind, Window};

    use super::*;

    pub(crate) fn generation(names: &[&str]) -> (Manifest, BTreeMap<String, Bytes>) {
        let files: BTreeMap<String, Bytes> =
            names.iter().map(|&name| (name.to_owned(), Bytes::from(name.to_owned()))).collect();
        let entry =
            |bytes: &Bytes| FileEntry { hash: ArtifactHash::of(bytes), size: bytes.len() as u64 };
        let manifest = Manifest {
            format: 1,
            parent: None,
            job: JobId::new("job"),
            kind: JobKind::ColdStart,
            files: files.iter().map(|(name, bytes)| (name.clone(), entry(bytes))).collect(),
            labels: vec![],
            recipe: String::new(),
            window: Window::new("mails.jsonl", BTreeMap::new()).unwrap(),
            seed: 1,
            code_version: "test".to_owned(),
            created: DateTime::UNIX_EPOCH,
            newest_label: None,
            metrics: BTreeMap::new(),
        };
        (manifest, files)
    }

    #[test]
    fn a_folder_reads_back_and_a_changed_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new");
        let (manifest, files) = generation(&["a", "b"]);
        let id = write_folder(&path, &manifest, &files).unwrap();
        let read = Verified::from_folder(&path).unwrap();
        assert_eq!((read.id(), read.manifest(), read.files()), (id, &manifest, &files));
        let again = write_folder(&path, &manifest, &files).unwrap_err().to_string();
        assert!(again.contains("already"), "{again}");
        fs::write(path.join("b"), "other").unwrap();
        let error = Verified::from_folder(&path).unwrap_err().to_string();
        assert!(error.contains("`b`") && error.contains("corrupt"), "{error}");
        fs::remove_file(path.join("b")).unwrap();
        assert!(Verified::from_folder(&path).unwrap_err().to_string().contains("`b`"));
        let nothing = Verified::from_folder(folder.path()).unwrap_err().to_string();
        assert!(nothing.contains(MANIFEST), "{nothing}");
    }

    #[test]
    fn a_manifest_reaches_no_file_outside_its_folder() {
        for name in ["../secret", "/etc/hostname", "a/b", "..", MANIFEST] {
            let folder = tempfile::tempdir().unwrap();
            let (manifest, files) = generation(&[name]);
            let refused = write_folder(&folder.path().join("new"), &manifest, &files);
            assert!(refused.unwrap_err().to_string().contains("no name of a file"), "{name}");
            fs::write(folder.path().join(MANIFEST), manifest.to_bytes()).unwrap();
            let error = Verified::from_folder(folder.path()).unwrap_err().to_string();
            assert!(error.contains("no name of a file"), "{name}: {error}");
        }
    }
}
