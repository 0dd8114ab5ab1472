//! The embedded broker.
use std::{net::SocketAddr, path::Path};

use crate::{config::EmbeddedConfig, error::StreamError};

/// The embedded broker.
pub struct EmbeddedBroker {
    addr: SocketAddr,
}

impl EmbeddedBroker {
    /// Starts it.
    ///
    /// # Errors
    /// See [`StreamError`].
    pub async fn start(_config: &EmbeddedConfig, _data_dir: &Path) -> Result<Self, StreamError> {
        unimplemented!()
    }

    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Stops it.
    pub async fn shutdown(self) {}
}
