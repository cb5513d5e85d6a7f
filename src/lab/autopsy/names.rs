//! Names for addresses from a binary's debug information, inlined functions and lines included.

use std::io::{self, Read as _};
use std::path::Path;

use addr2line::Context;
use flate2::read::ZlibDecoder;
use gimli::{EndianArcSlice, RunTimeEndian};
use object::read::SymbolMap;
use object::{CompressionFormat, Object, ObjectSection, SymbolMapName};

use crate::failure::Failure;

/// A function on a stack.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Frame {
    /// Its name, demangled.
    pub function: String,
    /// Source file, shortened: `src/…` is ours, `library/…` the standard library; may be empty.
    pub file: String,
    /// Line; 0 when unknown.
    pub line: u32,
}

impl Frame {
    /// A frame of which only the name is known.
    pub fn named(function: impl Into<String>) -> Self {
        Self { function: function.into(), file: String::new(), line: 0 }
    }

    /// Whether it is the standard library's: it allocates for its caller.
    pub fn is_std(&self) -> bool {
        // By name where the file is unknown, and where ours is generic code of theirs.
        let name = self.function.trim_start_matches('<');
        self.file.starts_with("library/")
            || ["alloc::", "core::", "std::", "T as core::"]
                .iter()
                .any(|root| name.starts_with(root))
    }
}

/// A binary's names.
pub struct Names<'data> {
    lines: Context<EndianArcSlice<RunTimeEndian>>,
    symbols: SymbolMap<SymbolMapName<'data>>,
}

impl<'data> Names<'data> {
    /// Reads the binary `path`, whose bytes are `data`; it must be the one with `build_id` where
    /// the profile gives one.
    ///
    /// # Errors
    /// When it is no ELF file, or another build than the profile's.
    pub fn read(path: &Path, data: &'data [u8], build_id: &str) -> Result<Self, Failure> {
        let path = path.display();
        let bad = |e: &dyn std::fmt::Display| {
            Failure::Failed(format!("{path}: cannot be read as a binary: {e}"))
        };
        let object = object::File::parse(data).map_err(|e| bad(&e))?;
        let own = object.build_id().map_err(|e| bad(&e))?.unwrap_or_default();
        let own: String = own.iter().map(|byte| format!("{byte:02x}")).collect();
        if !build_id.is_empty() && own != build_id {
            return Err(Failure::Failed(format!(
                "{path} has build id '{own}', the profile is of '{build_id}': give the binary that \
                 ran with --binary; the five programs all run as `lab`"
            )));
        }
        let endian =
            if object.is_little_endian() { RunTimeEndian::Little } else { RunTimeEndian::Big };
        let section = |id: gimli::SectionId| -> Result<_, gimli::Error> {
            // A section that is not there reads as empty: the symbol table names what it can.
            let data = object.section_by_name(id.name()).and_then(|s| unpacked(&s).ok());
            Ok(EndianArcSlice::new(data.unwrap_or_default().into(), endian))
        };
        let dwarf = gimli::Dwarf::load(section).map_err(|e| bad(&e))?;
        let lines = Context::from_dwarf(dwarf).map_err(|e| bad(&e))?;
        Ok(Self { lines, symbols: object.symbol_map() })
    }

    /// The functions at `address`, innermost first; never empty.
    pub fn frames(&self, address: u64) -> Vec<Frame> {
        let mut frames = self.inlined(address).unwrap_or_default();
        if frames.is_empty() {
            let symbol = self.symbols.containing(address).map(|symbol| symbol.name());
            let name = symbol.map_or_else(
                || format!("{address:#x}"),
                |n| addr2line::demangle_auto(n.into(), None).into_owned(),
            );
            frames.push(Frame::named(name));
        }
        frames
    }

    /// The frames by the debug information; an error in it is the same as no information.
    fn inlined(&self, address: u64) -> Option<Vec<Frame>> {
        let mut frames = Vec::new();
        let mut found = self.lines.find_frames(address).skip_all_loads().ok()?;
        while let Ok(Some(frame)) = found.next() {
            let Some(function) = frame.function else { continue };
            let Ok(name) = function.demangle() else { continue };
            let at = frame.location;
            let file = at.as_ref().and_then(|at| at.file).unwrap_or_default();
            frames.push(Frame {
                function: name.into_owned(),
                file: shortened(file).to_owned(),
                line: at.and_then(|at| at.line).unwrap_or(0),
            });
        }
        Some(frames)
    }
}

/// Largest section that is read.
const SECTION_BYTES_MAX: u64 = 1 << 30;

/// A section's bytes; `build.rs` has them compressed.
fn unpacked<'data>(section: &impl ObjectSection<'data>) -> io::Result<Vec<u8>> {
    let packed = section.compressed_data().map_err(io::Error::other)?;
    if packed.format != CompressionFormat::Zlib {
        return Ok(packed.data.to_vec());
    }
    let mut bytes = Vec::new();
    ZlibDecoder::new(packed.data).take(SECTION_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// A source path without what belongs to the machine that compiled it.
fn shortened(file: &str) -> &str {
    let own = concat!(env!("CARGO_MANIFEST_DIR"), "/");
    if let Some(rest) = file.strip_prefix(own) {
        return rest;
    }
    let after = |mark: &str| Some(file.split_once(mark)?.1.split_once('/')?.1);
    after("/registry/src/")
        .or_else(|| file.split_once("/release/build/").map(|(_, rest)| rest))
        .or_else(|| file.strip_prefix("/rustc/")?.split_once('/').map(|(_, rest)| rest))
        .or_else(|| file.split_once("/lib/rustlib/src/rust/").map(|(_, rest)| rest))
        .unwrap_or(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lose_what_belongs_to_the_machine() {
        let own = concat!(env!("CARGO_MANIFEST_DIR"), "/src/event.rs");
        for (long, short) in [
            (own, "src/event.rs"),
            ("/home/a/.cargo/registry/src/index-1f/x-0.5/src/a.rs", "x-0.5/src/a.rs"),
            ("/rustc/59807616/library/alloc/src/boxed.rs", "library/alloc/src/boxed.rs"),
            ("/t/lib/rustlib/src/rust/library/core/src/a.rs", "library/core/src/a.rs"),
            ("/t/release/build/rdkafka-sys-4f/out/src/rd.h", "rdkafka-sys-4f/out/src/rd.h"),
            ("src/prof.c", "src/prof.c"),
        ] {
            assert_eq!(shortened(long), short);
        }
    }
}
