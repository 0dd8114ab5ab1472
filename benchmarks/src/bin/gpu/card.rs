//! What the driver says of the card.
use anyhow::Context as _;
use nvml_wrapper::Nvml;
use serde::Serialize;

/// An NVIDIA GPU.
#[derive(Debug, Serialize)]
pub(crate) struct Card {
    pub(crate) name: String,
    /// Its memory.
    memory_gib: f64,
    driver: String,
    /// Highest CUDA version of the driver.
    cuda: String,
    #[serde(skip)]
    nvml: Nvml,
    #[serde(skip)]
    index: u32,
}

const GIB: f64 = (1_u64 << 30) as f64;

// Found, and asked, by a build that can use it.
#[cfg_attr(not(feature = "cuda"), allow(dead_code))]
impl Card {
    /// That with this index, as the driver counts.
    pub(crate) fn find(index: usize) -> anyhow::Result<Self> {
        let nvml = Nvml::init().context("no NVIDIA driver answers")?;
        let index = u32::try_from(index)?;
        let device = nvml.device_by_index(index).with_context(|| format!("GPU {index}"))?;
        let (name, memory) = (device.name()?, device.memory_info()?.total as f64 / GIB);
        let version = nvml.sys_cuda_driver_version()?;
        let cuda = format!("{}.{}", version / 1000, version % 1000 / 10);
        let driver = nvml.sys_driver_version()?;
        Ok(Self { name, memory_gib: memory, driver, cuda, nvml, index })
    }

    /// Memory in use, by everybody.
    pub(crate) fn used_gib(&self) -> Option<f64> {
        let device = self.nvml.device_by_index(self.index).ok()?;
        Some(device.memory_info().ok()?.used as f64 / GIB)
    }
}
