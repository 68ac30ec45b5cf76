//! Compiles the .proto files with protox, so that no machine needs protoc.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = [
        "common.proto",
        "worker.proto",
        "raylet.proto",
        "store.proto",
        "head.proto",
        "manager.proto",
        "bridge.proto",
    ]
    .map(|name| format!("protos/{name}"));
    for file in &files {
        println!("cargo:rerun-if-changed={file}");
    }
    let descriptors = protox::compile(&files, ["protos"])?;
    tonic_prost_build::configure()
        .bytes(".")
        .compile_fds(descriptors)?;
    Ok(())
}
