//! Everything that is named by the hash of its bytes: weights, replay buffers, verdicts.
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use object_store::{ObjectStore, ObjectStoreExt as _, local::LocalFileSystem, path::Path as Key};
use tidegate_contracts::{ArtifactHash, GenerationId, Manifest};

use crate::{ArtifactError, ArtifactsConfig};

/// A content-addressed store. A write goes to a temporary name, is published by its hash and
/// synced; a read is verified. What a crash leaves behind has no hash for a name, and harms nobody.
#[derive(Debug, Clone)]
pub struct ArtifactStore {
    store: Arc<dyn ObjectStore>,
    folder: PathBuf,
}

/// A generation, each byte here checked against its name. There is no other way to make one,
/// so that an unverified generation cannot be served by accident.
#[derive(Debug, Clone)]
pub struct Verified {
    id: GenerationId,
    manifest: Manifest,
    files: BTreeMap<String, Bytes>,
}

impl Verified {
    /// INVARIANT: every file was checked against the manifest, and the manifest against its name.
    pub(crate) fn new(
        id: GenerationId,
        manifest: Manifest,
        files: BTreeMap<String, Bytes>,
    ) -> Self {
        Self { id, manifest, files }
    }

    /// Its name.
    #[must_use]
    pub fn id(&self) -> GenerationId {
        self.id
    }

    /// Its lineage.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// One of its files.
    #[must_use]
    pub fn file(&self, name: &str) -> Option<&Bytes> {
        self.files.get(name)
    }

    /// All of its files, by name.
    #[must_use]
    pub fn files(&self) -> &BTreeMap<String, Bytes> {
        &self.files
    }
}

fn store(error: impl std::fmt::Display) -> ArtifactError {
    ArtifactError::Store(error.to_string())
}

impl ArtifactStore {
    /// Opens the folder, and makes it when it is not there.
    ///
    /// # Errors
    /// [`ArtifactError::Store`] when it cannot be made.
    pub fn open(config: &ArtifactsConfig, data_dir: &Path) -> Result<Self, ArtifactError> {
        let folder = config.dir.clone().unwrap_or_else(|| data_dir.join("artifacts"));
        std::fs::create_dir_all(&folder)
            .map_err(|error| store(format!("{}: {error}", folder.display())))?;
        let local = LocalFileSystem::new_with_prefix(&folder).map_err(store)?;
        Ok(Self { store: Arc::new(local), folder })
    }

    /// Keeps bytes under their hash. The same bytes are kept once.
    ///
    /// # Errors
    /// [`ArtifactError::Store`] when the disk fails.
    pub async fn put(&self, bytes: Bytes) -> Result<ArtifactHash, ArtifactError> {
        let hash = hash_of(&bytes).await?;
        let key = key(&hash);
        // An interrupted write may have left fewer bytes: only the full length counts as kept.
        match self.store.head(&key).await {
            Ok(kept) if kept.size == bytes.len() as u64 => return Ok(hash),
            Ok(_) | Err(object_store::Error::NotFound { .. }) => {}
            Err(error) => return Err(store(error)),
        }
        self.store.put(&key, bytes.into()).await.map_err(store)?;
        let path = self.folder.join(key.as_ref());
        tokio::task::spawn_blocking(move || sync(&path)).await.map_err(store)?.map_err(store)?;
        Ok(hash)
    }

    /// Reads bytes back, and checks them.
    ///
    /// # Errors
    /// [`ArtifactError::Missing`], [`ArtifactError::Corrupt`], [`ArtifactError::Store`].
    pub async fn get(&self, hash: &ArtifactHash) -> Result<Bytes, ArtifactError> {
        let read = match self.store.get(&key(hash)).await {
            Err(object_store::Error::NotFound { .. }) => {
                return Err(ArtifactError::Missing(*hash));
            }
            other => other.map_err(store)?,
        };
        let bytes = read.bytes().await.map_err(store)?;
        let found = hash_of(&bytes).await?;
        if found == *hash {
            Ok(bytes)
        } else {
            Err(ArtifactError::Corrupt { wanted: *hash, found })
        }
    }

    /// Keeps a generation: its files first, its manifest last, so that a manifest that is there
    /// names only files that are there.
    ///
    /// # Errors
    /// [`ArtifactError::Mismatch`] when manifest and files differ; as [`ArtifactStore::put`].
    pub async fn put_generation(
        &self,
        manifest: &Manifest,
        files: &BTreeMap<String, Bytes>,
    ) -> Result<GenerationId, ArtifactError> {
        if !manifest.files.keys().eq(files.keys()) {
            return Err(ArtifactError::Mismatch("they name other files".into()));
        }
        for (name, entry) in &manifest.files {
            if hash_of(&files[name]).await? != entry.hash {
                return Err(ArtifactError::Mismatch(format!("`{name}` has another hash")));
            }
            self.put(files[name].clone()).await?;
        }
        self.put(manifest.to_bytes().into()).await?;
        Ok(manifest.id())
    }

    /// Reads a generation's manifest, and checks it.
    ///
    /// # Errors
    /// As [`ArtifactStore::get`], and [`ArtifactError::Manifest`].
    pub async fn manifest(&self, id: &GenerationId) -> Result<Manifest, ArtifactError> {
        let bytes = self.get(&ArtifactHash::from_bytes(*id.as_bytes())).await?;
        serde_json::from_slice(&bytes)
            .map_err(|error| ArtifactError::Manifest { generation: *id, reason: error.to_string() })
    }

    /// Reads a whole generation, and checks every file of it.
    ///
    /// # Errors
    /// As [`ArtifactStore::manifest`], and [`ArtifactError::File`] naming the file.
    pub async fn generation(&self, id: &GenerationId) -> Result<Verified, ArtifactError> {
        self.read_generation(id, |_| true).await
    }

    /// The same of those of the files `names` that it has: to serve needs less than to go on
    /// learning, whose state is most of a generation's bytes.
    ///
    /// # Errors
    /// As [`ArtifactStore::generation`].
    pub async fn generation_part(
        &self,
        id: &GenerationId,
        names: &[&str],
    ) -> Result<Verified, ArtifactError> {
        self.read_generation(id, |name| names.contains(&name)).await
    }

    async fn read_generation(
        &self,
        id: &GenerationId,
        wanted: impl Fn(&str) -> bool,
    ) -> Result<Verified, ArtifactError> {
        let manifest = self.manifest(id).await?;
        let mut files = BTreeMap::new();
        for (name, entry) in manifest.files.iter().filter(|(name, _)| wanted(name)) {
            let bytes = self.get(&entry.hash).await.map_err(|error| ArtifactError::File {
                generation: *id,
                file: name.clone(),
                source: Box::new(error),
            })?;
            files.insert(name.clone(), bytes);
        }
        Ok(Verified { id: *id, manifest, files })
    }
}

/// Bytes that are hashed where they are: some tens of microseconds.
const AT_ONCE: usize = 64 << 10;

/// Off the runtime's threads: a gigabyte takes a third of a second, and requests would wait for it.
async fn hash_of(bytes: &Bytes) -> Result<ArtifactHash, ArtifactError> {
    if bytes.len() <= AT_ONCE {
        return Ok(ArtifactHash::of(bytes));
    }
    let bytes = bytes.clone();
    tokio::task::spawn_blocking(move || ArtifactHash::of(&bytes)).await.map_err(store)
}

/// `blake3/ab/abcdef...`: no folder grows too large.
fn key(hash: &ArtifactHash) -> Key {
    let hex = hash.to_hex();
    Key::from(format!("blake3/{}/{hex}", &hex[..2]))
}

/// Bytes and name reach the disk before the hash is told to anybody.
fn sync(path: &Path) -> std::io::Result<()> {
    std::fs::File::open(path)?.sync_all()?;
    match path.parent() {
        Some(folder) => std::fs::File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::folder::tests::generation;

    #[tokio::test]
    async fn a_part_of_a_generation_is_verified_and_the_rest_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let store = ArtifactStore::open(&ArtifactsConfig::default(), folder.path()).unwrap();
        let (manifest, files) = generation(&["weights", "optimizer"]);
        let id = store.put_generation(&manifest, &files).await.unwrap();
        let part = store.generation_part(&id, &["weights", "adapters"]).await.unwrap();
        assert_eq!(part.files().keys().collect::<Vec<_>>(), ["weights"]);
        assert_eq!((part.id(), part.manifest()), (id, &manifest));

        let path = |name: &str| store.folder.join(key(&manifest.files[name].hash).as_ref());
        std::fs::write(path("optimizer"), "other").unwrap();
        store.generation_part(&id, &["weights"]).await.unwrap();
        assert!(store.generation(&id).await.unwrap_err().to_string().contains("`optimizer`"));
        std::fs::write(path("weights"), "other").unwrap();
        let error = store.generation_part(&id, &["weights"]).await.unwrap_err().to_string();
        assert!(error.contains("`weights`"), "{error}");
    }
}
