//! Link arguments of the programs: how large they are.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    // `lab autopsy` reads the debug information of `lab`. It is two thirds of the file unless it is compressed;
    // with zlib, which backtraces can read as well.
    println!("cargo:rustc-link-arg-bin=lab=-Wl,--compress-debug-sections=zlib");
    // The other four become `lab`: all that they hold is the standard library's.
    for name in ["chaos", "processor", "producer", "sink"] {
        println!("cargo:rustc-link-arg-bin={name}=-Wl,--strip-debug");
    }
}
