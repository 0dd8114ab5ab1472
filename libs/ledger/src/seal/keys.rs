//! Whom to believe: a folder of public keys, and the private ones of the services that run here.
use std::{
    collections::BTreeMap,
    fmt,
    io::Write as _,
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use tidegate_contracts::Actor;

use super::{KeyId, PublicKey, SigningKey};
use crate::{KeysConfig, LedgerError};

/// Whose key it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Holder {
    /// Signs verdicts.
    Evaluator,
    /// Signs promotions, rollbacks, and approvals on behalf of operators it has authenticated.
    Controller,
    /// Signs their own approvals.
    Operator(Actor),
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Evaluator => f.write_str("evaluator"),
            Self::Controller => f.write_str("controller"),
            Self::Operator(actor) => f.write_str(actor.as_str()),
        }
    }
}

impl Holder {
    /// By the name of a key's file, without its ending. What follows a `~` tells several keys of one
    /// holder apart.
    fn of(stem: &str) -> Option<Self> {
        match stem.split('~').next()? {
            "evaluator" => Some(Self::Evaluator),
            "controller" => Some(Self::Controller),
            other => other
                .strip_prefix("operator-")
                .filter(|name| !name.is_empty())
                .map(|name| Self::Operator(Actor::new(format!("operator:{name}")))),
        }
    }

    /// The name of its key's file, without its ending.
    #[must_use]
    pub fn stem(&self) -> String {
        self.to_string().replacen("operator:", "operator-", 1)
    }
}

impl std::str::FromStr for Holder {
    type Err = String;

    /// `evaluator`, `controller` or `operator:<name>`.
    fn from_str(text: &str) -> Result<Self, String> {
        let stem = text.replacen("operator:", "operator-", 1);
        let named = Self::of(&stem).filter(|holder| holder.to_string() == text);
        named.filter(|_| !text.contains('/')).ok_or_else(|| {
            format!("`{text}` holds no key: use evaluator, controller or operator:<name>")
        })
    }
}

/// The keys that are believed, and those that sign here.
#[derive(Debug, Default)]
pub struct Keys {
    dir: PathBuf,
    trusted: BTreeMap<KeyId, (Holder, PublicKey)>,
    evaluator: Option<SigningKey>,
    controller: Option<SigningKey>,
    /// Entries up to this one are from before there were signatures.
    pub(crate) unsigned_until: u64,
}

impl Keys {
    /// Reads the folder. Where none is configured, it is the data directory's, and gets a key for
    /// evaluator and controller each at the first start.
    ///
    /// # Errors
    /// [`LedgerError::Key`] names the file and says what it should be.
    pub fn open(config: &KeysConfig, data_dir: &Path) -> Result<Self, LedgerError> {
        if config.dir.is_none() {
            for holder in [Holder::Evaluator, Holder::Controller] {
                make(&folder(config, data_dir), &holder)?;
            }
        }
        Self::read(config, data_dir)
    }

    /// Reads the folder as it is.
    ///
    /// # Errors
    /// As [`Keys::open`].
    pub fn read(config: &KeysConfig, data_dir: &Path) -> Result<Self, LedgerError> {
        let dir = folder(config, data_dir);
        let mut keys = Self { dir, unsigned_until: config.unsigned_until, ..Self::default() };
        keys.evaluator = keys.own(&Holder::Evaluator)?;
        keys.controller = keys.own(&Holder::Controller)?;
        keys.believe()?;
        for holder in [Holder::Evaluator, Holder::Controller] {
            if !keys.trusted.values().any(|(of, _)| *of == holder) {
                let path = keys.path(&holder, "pub");
                return Err(wrong(
                    &path,
                    format!("the public key of the {holder} is missing; {HOW}"),
                ));
            }
        }
        Ok(keys)
    }

    fn path(&self, holder: &Holder, ending: &str) -> PathBuf {
        self.dir.join(format!("{}.{ending}", holder.stem()))
    }

    fn own(&self, holder: &Holder) -> Result<Option<SigningKey>, LedgerError> {
        let path = self.path(holder, "key");
        if !path.exists() {
            return Ok(None);
        }
        read_private(&path).map(Some)
    }

    fn believe(&mut self) -> Result<(), LedgerError> {
        let entries = std::fs::read_dir(&self.dir).map_err(|error| wrong(&self.dir, error))?;
        for entry in entries {
            let path = entry.map_err(|error| wrong(&self.dir, error))?.path();
            if path.extension().is_none_or(|ending| ending != "pub") {
                continue;
            }
            let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
            let Some(holder) = Holder::of(stem) else {
                let names = "evaluator.pub, controller.pub or operator-<name>.pub";
                return Err(wrong(&path, format!("whose key is it? Name it {names}")));
            };
            let text = std::fs::read_to_string(&path).map_err(|error| wrong(&path, error))?;
            let key = PublicKey::from_pem(&text).map_err(|why| wrong(&path, why))?;
            if let Some((other, _)) = self.trusted.insert(key.id(), (holder.clone(), key))
                && other != holder
            {
                return Err(wrong(
                    &path,
                    format!("the {other} has the same key: make one for each"),
                ));
            }
        }
        for (holder, own) in
            [(Holder::Evaluator, &self.evaluator), (Holder::Controller, &self.controller)]
        {
            let Some(own) = own else { continue };
            if self.trusted.get(&own.public().id()).is_none_or(|(of, _)| *of != holder) {
                let why = "its public half is not beside it: nobody would believe what it signs";
                return Err(wrong(&self.path(&holder, "key"), why));
            }
        }
        Ok(())
    }

    /// Whose key it is, and the key; `None` for one that is not believed.
    pub(crate) fn find(&self, id: &KeyId) -> Option<&(Holder, PublicKey)> {
        self.trusted.get(id)
    }

    /// All that are believed.
    pub fn trusted(&self) -> impl Iterator<Item = (&KeyId, &Holder)> {
        self.trusted.iter().map(|(id, (holder, _))| (id, holder))
    }

    /// The key that a service of this process signs with.
    ///
    /// # Errors
    /// [`LedgerError::Key`] when it is not here.
    pub fn signer(&self, holder: &Holder) -> Result<&SigningKey, LedgerError> {
        let own = match holder {
            Holder::Evaluator => &self.evaluator,
            Holder::Controller => &self.controller,
            Holder::Operator(_) => &None,
        };
        let missing = || format!("is missing, and the {holder} signs with it; {HOW}");
        own.as_ref().ok_or_else(|| wrong(&self.path(holder, "key"), missing()))
    }

    /// Where they are.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }
}

fn folder(config: &KeysConfig, data_dir: &Path) -> PathBuf {
    config.dir.clone().unwrap_or_else(|| data_dir.join("keys"))
}

const HOW: &str = "make keys with `tidegate keys make` and set `ledger.keys.dir` to their folder";

fn wrong(path: &Path, why: impl fmt::Display) -> LedgerError {
    LedgerError::Key { path: path.to_owned(), why: why.to_string() }
}

/// Reads a private key's file.
///
/// # Errors
/// [`LedgerError::Key`] when it is none, or everybody can read it.
pub fn read_private(path: &Path) -> Result<SigningKey, LedgerError> {
    let mode = std::fs::metadata(path).map_err(|error| wrong(path, error))?.permissions().mode();
    if mode & 0o007 != 0 {
        return Err(wrong(path, "everybody can read it: chmod 600"));
    }
    let text = std::fs::read_to_string(path).map_err(|error| wrong(path, error))?;
    SigningKey::from_pem(&text).map_err(|why| wrong(path, why))
}

/// Makes a holder's pair of files, `<stem>.key` and `<stem>.pub`, unless there are some.
///
/// # Errors
/// [`LedgerError::Key`] when they cannot be written.
pub fn make(dir: &Path, holder: &Holder) -> Result<PathBuf, LedgerError> {
    let path = |ending: &str| dir.join(format!("{}.{ending}", holder.stem()));
    std::fs::create_dir_all(dir).map_err(|error| wrong(dir, error))?;
    let private = path("key");
    if !private.exists() {
        write(&private, 0o600, &SigningKey::generate().to_pem())?;
    }
    let public = path("pub");
    if !public.exists() {
        // Of the file, not of the key just made: another process may have been first.
        write(&public, 0o644, &read_private(&private)?.public().to_pem())?;
    }
    Ok(public)
}

/// All of it or nothing, and whoever is first.
fn write(path: &Path, mode: u32, text: &str) -> Result<(), LedgerError> {
    let unique = format!("{}.{}.tmp", std::process::id(), uuid::Uuid::new_v4());
    let temporary = path.with_extension(unique);
    let written = || -> std::io::Result<()> {
        let mut options = std::fs::OpenOptions::new();
        let mut file = options.write(true).create_new(true).mode(mode).open(&temporary)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        match std::fs::hard_link(&temporary, path) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
            other => other,
        }
    };
    let result = written();
    let _ = std::fs::remove_file(&temporary);
    result.map_err(|error| wrong(path, error))
}
