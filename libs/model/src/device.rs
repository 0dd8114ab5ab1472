//! Where tensors live.
use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::ModelError;

/// The backend of [`Device::Cpu`].
pub type CpuBackend = burn::backend::Flex;
/// The backend of [`Device::Cuda`].
#[cfg(feature = "cuda")]
pub type CudaBackend = burn::backend::Cuda;

/// Where a model computes; in config `"cpu"` or `"cuda:0"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Device {
    /// Every core of this machine.
    #[default]
    Cpu,
    /// The NVIDIA GPU with this index; needs the cargo feature `cuda`.
    Cuda(usize),
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(index) => write!(f, "cuda:{index}"),
        }
    }
}

impl FromStr for Device {
    type Err = ModelError;

    fn from_str(text: &str) -> Result<Self, ModelError> {
        let index = match text {
            "cpu" => return Ok(Self::Cpu),
            "cuda" => Some(0),
            _ => text.strip_prefix("cuda:").and_then(|index| index.parse().ok()),
        };
        index.map(Self::Cuda).ok_or_else(|| ModelError::Device {
            device: text.to_owned(),
            reason: "use `cpu` or `cuda:<index>`".to_owned(),
        })
    }
}

impl TryFrom<String> for Device {
    type Error = ModelError;

    fn try_from(text: String) -> Result<Self, ModelError> {
        text.parse()
    }
}

impl From<Device> for String {
    fn from(device: Device) -> Self {
        device.to_string()
    }
}
