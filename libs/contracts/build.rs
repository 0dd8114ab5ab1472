//! Compiles the protos without a system protoc, and gives `tidegate.v1` its proto3 JSON mapping.
use std::{env, fs, path::PathBuf};

use prost::Message as _;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("../../proto");
    let files = [
        "tidegate/v1/event.proto",
        "tidegate/v1/predict.proto",
        "tidegate/v1/control.proto",
        "inference/open_inference.proto",
    ];
    for file in &files {
        println!("cargo:rerun-if-changed={}", root.join(file).display());
    }
    let descriptors = protox::compile(files, [&root])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let bytes = descriptors.encode_to_vec();
    // Served by gRPC reflection.
    fs::write(out.join("descriptors.bin"), &bytes)?;

    // "Compile" them only in name: the extern path below stands for all of them.
    tonic_prost_build::configure()
        .compile_well_known_types(true)
        .extern_path(".google.protobuf", "::pbjson_types")
        .compile_fds(descriptors)?;
    pbjson_build::Builder::new().register_descriptors(&bytes)?.build(&[".tidegate.v1"])?;
    Ok(())
}
