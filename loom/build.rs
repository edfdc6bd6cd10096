//! The library's files take loom's types: see `src/sync.rs` there.

fn main() {
    println!("cargo:rustc-cfg=moorline_loom");
    println!("cargo:rerun-if-changed=build.rs");
}
