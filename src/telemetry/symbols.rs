//! Names for a profile's addresses, from the executable's symbol table alone.
//!
//! `go tool pprof` by itself names a Rust function without its path (`send`, not
//! `queue::bounded::…::send`). The symbol table has the path and takes about 1 MB to read; the
//! debug information would take 100. The reader adds what the symbol table lacks, inlined functions
//! and lines (`?names=no`).

use std::collections::HashSet;
use std::fs::File;

use object::read::ReadCache;
use object::{Object, ObjectSymbol, SymbolKind};

use super::pprof::{Function, Line, Profile};

/// Names the functions of the process's own executable, which is `profile`'s first mapping.
///
/// # Errors
/// When the executable cannot be read.
pub(super) fn name(profile: &mut Profile) -> Result<(), Box<dyn std::error::Error>> {
    let Some(executable) = profile.mapping.first().map(|mapping| mapping.filename) else {
        return Ok(());
    };
    let mut mappings = HashSet::new();
    for mapping in profile.mapping.iter_mut().filter(|m| m.filename == executable) {
        mapping.has_functions = true;
        mappings.insert(mapping.id);
    }
    let mut unnamed: Vec<_> = profile
        .location
        .iter_mut()
        .filter(|location| mappings.contains(&location.mapping_id))
        .collect();
    unnamed.sort_unstable_by_key(|location| location.address);

    // The link still leads to the file when it was replaced or removed meanwhile.
    let bytes = ReadCache::new(File::open("/proc/self/exe")?);
    let executable = object::File::parse(&bytes)?;
    for symbol in executable.symbols().filter(|symbol| symbol.kind() == SymbolKind::Text) {
        let start = unnamed.partition_point(|l| l.address < symbol.address());
        let end = unnamed.partition_point(|l| l.address < symbol.address() + symbol.size());
        let mut inside = unnamed.get_mut(start..end).unwrap_or_default().iter_mut();
        // One name is enough where a function has several.
        let Some(first) = inside.next().filter(|location| location.line.is_empty()) else {
            continue;
        };
        let Ok(mangled) = symbol.name() else { continue };
        let id = profile.function.len() as u64 + 1;
        first.line.push(Line { function_id: id, line: 0 });
        inside.for_each(|location| location.line.push(Line { function_id: id, line: 0 }));
        let demangled = format!("{:#}", rustc_demangle::demangle(mangled));
        profile.string_table.extend([demangled, mangled.to_owned()]);
        let strings = i64::try_from(profile.string_table.len())?;
        profile.function.push(Function {
            id,
            name: strings - 2,
            system_name: strings - 1,
            ..Function::default()
        });
    }
    Ok(())
}
