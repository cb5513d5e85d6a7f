//! Seeds, changed a little: a changed seed gets to places that random bytes never reach, such as
//! the second brace of a JSON body. bolero shrinks and repeats failures.

use std::path::Path;

use bolero::{Driver, ValueGenerator};

/// Tokens that often break parsers: ends, signs, quotes, and numbers at their limits.
const TOKENS: [&[u8]; 20] = [
    b"\0",
    b"\xff",
    b"\n",
    b"\r\n",
    b"\r\n\r\n",
    b" ",
    b"-",
    b"--",
    b"=",
    b"\"",
    b"{",
    b"}",
    b",",
    b":",
    b"0",
    b"-1",
    b"1e308",
    b"99999999999999999999",
    b"\x7f\xff\xff\xff",
    b"\xff\xff\xff\xff",
];

/// A target's seeds.
#[derive(Debug)]
pub struct Seeds(Vec<Vec<u8>>);

impl Seeds {
    /// Those in the target's folder; there must be some.
    pub fn of(target: &str) -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/__fuzz__").join(target);
        let files = std::fs::read_dir(folder.join("corpus")).expect("a folder of seeds");
        let mut paths: Vec<_> = files.map(|file| file.expect("a file").path()).collect();
        paths.sort();
        assert!(paths.len() >= 3, "{target} has too few seeds");
        Self(paths.iter().map(|path| std::fs::read(path).expect("a seed")).collect())
    }

    fn any<D: Driver>(&self, driver: &mut D) -> Option<&Vec<u8>> {
        self.0.get(below(driver, self.0.len())?)
    }
}

impl ValueGenerator for Seeds {
    type Output = Vec<u8>;

    fn generate<D: Driver>(&self, driver: &mut D) -> Option<Vec<u8>> {
        let mut bytes = self.any(driver)?.clone();
        for _ in 0..=below(driver, 4)? {
            let from = below(driver, bytes.len() + 1)?;
            let to = bytes.len().min(from + below(driver, 9)?);
            match below(driver, 5)? {
                0 => drop(bytes.splice(from..to, TOKENS[below(driver, TOKENS.len())?].to_vec())),
                1 => drop(bytes.drain(from..to)),
                2 => bytes.extend_from_within(from..),
                3 => drop(bytes.splice(from.., self.any(driver)?.clone())),
                _ => {
                    let byte = driver.produce::<u8>()?;
                    bytes.get_mut(from..to)?.iter_mut().for_each(|old| *old ^= byte);
                }
            }
        }
        Some(bytes)
    }
}

/// A number below `end`, which must not be 0.
fn below<D: Driver>(driver: &mut D, end: usize) -> Option<usize> {
    Some(driver.produce::<u16>()? as usize % end)
}
