//! Files that are kept gzipped: a reader of `NAME` gets `NAME.gz` if only that exists.

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;

fn packed(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".gz");
    name.into()
}

/// Whether `path` exists, packed or not.
pub fn exists(path: &Path) -> bool {
    path.exists() || packed(path).exists()
}

/// The content of `path`, packed or not.
///
/// # Errors
/// When it does not exist, or cannot be read.
pub fn open(path: &Path) -> io::Result<Box<dyn Read>> {
    match File::open(path) {
        Ok(file) => Ok(Box::new(file)),
        Err(e) if e.kind() == ErrorKind::NotFound => match File::open(packed(path)) {
            Ok(file) => Ok(Box::new(GzDecoder::new(file))),
            Err(_) => Err(e),
        },
        Err(e) => Err(e),
    }
}

/// Packs `path`, which is gone then. A file that is not there needs no packing; one that cannot be packed
/// stays as it is.
///
/// # Errors
/// When it cannot be read, or its packed form cannot be written.
pub fn pack(path: &Path) -> io::Result<()> {
    let mut from = match File::open(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
        from => from?,
    };
    let whole = packed(path);
    let half = whole.with_extension("half");
    let mut to = GzEncoder::new(File::create(&half)?, Compression::best());
    io::copy(&mut from, &mut to).and_then(|_| to.finish()?.sync_all()).inspect_err(|_| {
        // Only the first error matters.
        let _left = std::fs::remove_file(&half);
    })?;
    std::fs::rename(&half, &whole)?;
    std::fs::remove_file(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(path: &Path) -> String {
        let mut text = String::new();
        open(path).and_then(|mut file| file.read_to_string(&mut text)).expect("read");
        text
    }

    #[test]
    fn a_packed_file_is_read_by_its_own_name() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("samples.jsonl");
        assert!(open(&path).is_err_and(|e| e.kind() == ErrorKind::NotFound));
        pack(&path).expect("nothing to do");
        std::fs::write(&path, "one\ntwo\n").expect("written");
        assert_eq!((text(&path).as_str(), exists(&path)), ("one\ntwo\n", true));
        for _ in 0..2 {
            pack(&path).expect("packed");
            assert_eq!((text(&path).as_str(), exists(&path)), ("one\ntwo\n", true));
            let names: Vec<_> = std::fs::read_dir(dir.path()).expect("dir").collect();
            assert_eq!(names.len(), 1, "{names:?}");
        }
    }
}
