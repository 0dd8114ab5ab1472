//! Configuration from defaults, a TOML file, the environment and flags.
//!
//! Precedence, the later wins: **defaults, file, environment, flags**. Environment variables are
//! `TIDEGATE_` and the path of the field with `__` between its steps:
//! `TIDEGATE_GATEWAY__BATCH__MAX_BATCH=64`. A variable without `__` counts only when it names a
//! field (`TIDEGATE_DATA_DIR`): others, like `TIDEGATE_TOKEN`, are not configuration.
use std::{fmt, path::Path};

use figment::{
    Figment,
    providers::{Env, Format, Serialized, Toml},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// Why configuration could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file named by a flag is not there.
    #[error("config file {0} does not exist")]
    NoFile(String),
    /// A value is missing, unknown or of the wrong type; names the field and its source.
    #[error("{0}")]
    Invalid(String),
}

/// Reads `T` by the precedence above. `flags` is a sparse tree of what was given on the command
/// line; its `null`s are ignored.
///
/// # Errors
/// [`ConfigError`] names the field, what was found, and which source it came from.
pub fn load<T>(file: Option<&Path>, flags: &serde_json::Value) -> Result<T, ConfigError>
where
    T: Default + Serialize + DeserializeOwned,
{
    let defaults = T::default();
    let fields = serde_json::to_value(&defaults).unwrap_or_default();
    let mut figment = Figment::from(Serialized::defaults(defaults));
    if let Some(path) = file {
        if !path.is_file() {
            return Err(ConfigError::NoFile(path.display().to_string()));
        }
        figment = figment.merge(Toml::file_exact(path));
    }
    let is_field =
        move |name: &str| name.contains("__") || fields.get(name.to_ascii_lowercase()).is_some();
    let environment = Env::prefixed("TIDEGATE_").filter(move |name| is_field(name.as_str()));
    figment = figment.merge(environment.split("__"));
    let flags = without_nulls(flags.clone());
    figment
        .merge(Serialized::defaults(flags))
        .extract()
        .map_err(|error| ConfigError::Invalid(error.to_string()))
}

fn without_nulls(value: serde_json::Value) -> serde_json::Value {
    match value {
        serde_json::Value::Object(map) => map
            .into_iter()
            .map(|(key, value)| (key, without_nulls(value)))
            .filter(|(_, value)| {
                !value.is_null() && value.as_object().is_none_or(|m| !m.is_empty())
            })
            .collect::<serde_json::Map<_, _>>()
            .into(),
        other => other,
    }
}

/// A value that is never printed: passwords, tokens.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Hides `value`.
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// The value, for the one place that needs it.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Secrets are written as `***`: `config show` prints what is in force and gives nothing away.
impl Serialize for Secret {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str("***")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Serialize, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields, default)]
    struct Sample {
        port: u16,
        name: String,
    }

    impl Default for Sample {
        fn default() -> Self {
            Self { port: 1, name: "a".into() }
        }
    }

    #[test]
    fn flags_win_over_defaults_and_nulls_say_nothing() {
        let flags = serde_json::json!({"port": 7, "name": null});
        assert_eq!(load::<Sample>(None, &flags).unwrap(), Sample { port: 7, name: "a".into() });
    }

    #[test]
    fn an_unknown_field_is_named() {
        let error = load::<Sample>(None, &serde_json::json!({"prot": 7})).unwrap_err();
        assert!(error.to_string().contains("prot"), "{error}");
    }

    #[test]
    fn a_secret_is_not_printed() {
        let secret = Secret::new("hunter2");
        assert_eq!(
            format!("{secret:?} {}", serde_json::to_string(&secret).unwrap()),
            "*** \"***\""
        );
    }
}
