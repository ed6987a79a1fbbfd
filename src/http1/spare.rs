//! Memory for what is about to be written, held only while something is in it.
//!
//! All connections of a thread take turns with a few pieces, the one that was used last first: it is still in the
//! processor's cache. With memory of its own for each, a worker that goes round among its connections would wait for every
//! line of it; and one with nothing to say would hold it all the same.

use std::cell::RefCell;

use bytes::BytesMut;

/// A head and a small body.
const ROOM: usize = 2 * 1024;
/// What has grown larger is not kept.
const LARGEST: usize = 4 * 1024;
/// Pieces that a thread keeps. Few are out at a time: nearly all is written at once.
const KEPT: usize = 16;

thread_local! {
    static SPARE: RefCell<Vec<BytesMut>> = const { RefCell::new(Vec::new()) };
}

/// Room for who has none.
pub fn take(buffer: &mut BytesMut) {
    if buffer.capacity() == 0 {
        let spare = SPARE.try_with(|spare| spare.borrow_mut().pop()).ok().flatten();
        *buffer = spare.unwrap_or_else(|| BytesMut::with_capacity(ROOM));
    }
}

/// Takes back what is empty.
pub fn give_back(buffer: &mut BytesMut) {
    let mut empty = std::mem::take(buffer);
    empty.clear();
    if !(ROOM..=LARGEST).contains(&empty.capacity()) {
        return;
    }
    // A thread that is ending keeps nothing.
    let _ = SPARE.try_with(|spare| {
        let mut spare = spare.borrow_mut();
        if spare.len() < KEPT {
            spare.push(empty);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_used_last_is_used_next() {
        let (mut one, mut other) = (BytesMut::new(), BytesMut::new());
        take(&mut one);
        take(&mut other);
        one.extend_from_slice(b"something");
        let (first, second) = (one.as_ptr(), other.as_ptr());
        assert_ne!(first, second);
        give_back(&mut other);
        give_back(&mut one);
        assert_eq!((one.capacity(), other.capacity()), (0, 0));
        take(&mut other);
        assert_eq!((other.as_ptr(), other.len()), (first, 0));
        take(&mut one);
        assert_eq!(one.as_ptr(), second);
        // Who has some keeps it.
        take(&mut one);
        assert_eq!(one.as_ptr(), second);
    }

    #[test]
    fn little_is_kept() {
        give_back(&mut BytesMut::with_capacity(LARGEST + 1));
        give_back(&mut BytesMut::new());
        for _ in 0..KEPT * 4 {
            let mut one = BytesMut::with_capacity(ROOM);
            one.extend_from_slice(b"something");
            give_back(&mut one);
        }
        SPARE.with_borrow(|spare| {
            assert_eq!(spare.len(), KEPT);
            assert!(spare.iter().all(|piece| (ROOM..=LARGEST).contains(&piece.capacity())));
        });
    }
}
