//! Which Segue this is, for whoever looks at the account.
//!
//! Where a store lies does not say it: two hosts may keep theirs in the same place, and each would take the other's
//! machines for its own. So it is a word that chance chose once, in a file of the store.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

const FILE: &str = "ec2.owner";
const LENGTH: usize = 16;

#[derive(Debug, thiserror::Error)]
pub enum OwnerError {
    #[error("{}, which says whose machines of EC2 are this store's, cannot be read or written: {error}", path.display())]
    Io { path: PathBuf, error: io::Error },
    #[error(
        "{} does not say whose machines of EC2 are this store's; write the value that they have as `segue:store`, or \
         remove the file if there are none",
        path.display()
    )]
    Damaged { path: PathBuf },
}

/// Of the store in this folder. Only the process that holds the store may ask.
pub fn owner(store: &Path) -> Result<String, OwnerError> {
    let path = store.join(FILE);
    let failed = |error| OwnerError::Io { path: path.clone(), error };
    match fs::read_to_string(&path) {
        Ok(text) => {
            let text = text.trim();
            let plain = |c: u8| c.is_ascii_digit() || (b'a'..=b'f').contains(&c);
            let is_good = text.len() == LENGTH && text.bytes().all(plain);
            is_good.then(|| text.to_owned()).ok_or(OwnerError::Damaged { path: path.clone() })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let chosen = format!("{:016x}", fastrand::u64(..));
            // Whole or not at all: a machine must never be made under a word that is not there afterwards.
            let unfinished = path.with_extension("new");
            let mut file = fs::File::create(&unfinished).map_err(failed)?;
            file.write_all(chosen.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
            fs::rename(&unfinished, &path).map_err(failed)?;
            fs::File::open(store).and_then(|folder| folder.sync_all()).map_err(failed)?;
            Ok(chosen)
        }
        Err(error) => Err(failed(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_keeps_its_word_and_shares_it_with_no_other() {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let word = owner(one.path()).unwrap();
        assert_eq!(word.len(), LENGTH);
        assert_eq!(owner(one.path()).unwrap(), word);
        assert_ne!(owner(other.path()).unwrap(), word);
        assert!(owner(&one.path().join("nowhere")).is_err());
    }

    #[test]
    fn a_word_that_is_damaged_is_not_replaced() {
        let store = tempfile::tempdir().unwrap();
        for text in ["", "0123", "0123456789abcdeX"] {
            fs::write(store.path().join(FILE), text).unwrap();
            assert!(matches!(owner(store.path()), Err(OwnerError::Damaged { .. })), "{text:?}");
        }
    }
}
