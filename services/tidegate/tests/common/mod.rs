//! The binary, in a folder of its own.
use std::{
    path::Path,
    process::{Command, Output},
};

/// Runs it to its end, without the configuration of who runs the tests.
pub(crate) fn tidegate(folder: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("TIDEGATE_")) {
        command.env_remove(name);
    }
    command.args(args).current_dir(folder).output().expect("the binary was built with this test")
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
