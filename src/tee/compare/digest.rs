//! What is kept of a body: its length, and a number that another body shares only by a chance of 2⁻¹²⁸.
//!
//! Digests are compared with digests of this process, and nothing else is done with them. So the hash is a fast one, keyed
//! anew in every process: whoever writes bodies cannot prepare two that look the same.

use std::hash::{BuildHasher, RandomState};
use std::sync::LazyLock;

use xxhash_rust::xxh3::{Xxh3, xxh3_128_with_secret};

/// As long as XXH3's own.
const KEY_BYTES: usize = 192;

/// The standard library takes its key from the system, and what it makes of it cannot be told from random numbers.
static KEY: LazyLock<[u8; KEY_BYTES]> = LazyLock::new(|| {
    let random = RandomState::new();
    let mut key = [0; KEY_BYTES];
    for (number, word) in key.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        *word = random.hash_one(number).to_le_bytes();
    }
    key
});

/// Of a body as it was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digest {
    pub hash: u128,
    /// In bytes, more than 0.
    pub length: u64,
}

/// A body that passes by.
#[derive(Default)]
pub struct Digester {
    state: State,
    length: u64,
}

#[derive(Default)]
enum State {
    #[default]
    Nothing,
    /// Of a body that came in one piece, as most do: it needs no room for what lies between two.
    Whole(u128),
    /// On the heap, as it is moved with the exchange it belongs to.
    Parts(Box<Xxh3>),
}

impl Digester {
    /// `is_last`: nothing follows.
    pub fn update(&mut self, data: &[u8], is_last: bool) {
        self.length += data.len() as u64;
        match &mut self.state {
            State::Nothing if is_last => self.state = State::Whole(xxh3_128_with_secret(data, &*KEY)),
            State::Nothing => {
                let mut parts = Box::new(Xxh3::with_secret(*KEY));
                parts.update(data);
                self.state = State::Parts(parts);
            }
            State::Parts(parts) => parts.update(data),
            // There is no more to come.
            State::Whole(_) => {}
        }
    }

    /// Bytes so far.
    pub const fn length(&self) -> u64 {
        self.length
    }

    /// `None` for an empty body, which is the same as none.
    pub fn finish(&self) -> Option<Digest> {
        let hash = match &self.state {
            State::Whole(hash) => *hash,
            State::Parts(parts) => parts.digest128(),
            State::Nothing => return None,
        };
        (self.length > 0).then_some(Digest { hash, length: self.length })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// `announced`: who sends the last chunk knows that it is.
    fn digest<'a>(chunks: impl IntoIterator<Item = &'a [u8]>, announced: bool) -> Option<Digest> {
        let mut digester = Digester::default();
        let mut chunks = chunks.into_iter().peekable();
        while let Some(chunk) = chunks.next() {
            digester.update(chunk, announced && chunks.peek().is_none());
        }
        digester.finish()
    }

    fn of<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> Option<Digest> {
        digest(chunks, true)
    }

    proptest! {
        #[test]
        fn how_a_body_is_cut_makes_no_difference(body: Vec<u8>, repeat in 1_usize..64, cut in 1_usize..700) {
            let body = body.repeat(repeat);
            let whole = of([&*body]);
            prop_assert_eq!(digest([&*body], false), whole);
            prop_assert_eq!(of(body.chunks(cut)), whole);
            prop_assert_eq!(digest(body.chunks(cut), false), whole);
        }

        #[test]
        fn a_changed_byte_is_seen(mut body in prop::collection::vec(any::<u8>(), 1..3_000), at: usize, to: u8) {
            let before = of([&*body]);
            let at = at % body.len();
            let same = body[at] == to;
            body[at] = to;
            prop_assert_eq!(of([&*body]) == before, same);
        }
    }

    #[test]
    fn an_empty_body_is_none() {
        assert_eq!(of([]), None);
        assert_eq!(of([&b""[..], b""]), None);
    }

    #[test]
    fn the_key_is_no_constant() {
        // All bits of it were drawn: a word that stays zero would have been forgotten.
        assert!(KEY.as_chunks::<8>().0.iter().all(|word| *word != [0; 8]));
        let public = xxhash_rust::xxh3::xxh3_128(&[7; 1024]);
        assert_ne!(of([&[7; 1024][..]]).map(|digest| digest.hash), Some(public));
    }
}
