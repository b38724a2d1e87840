//! Generates the gRPC types with a pure-Rust protoc, so that no system protoc is needed.
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = ["proto/sidegate/feed/v1/feed.proto", "proto/envoy/service/auth/v3/external_auth.proto"];
    let descriptors = protox::compile(files, ["proto"])?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    println!("cargo:rerun-if-changed=proto");
    Ok(())
}
