//! Memory for messages, held only while something is in it.
//!
//! All connections of a thread take turns with a few pieces, the one that was used last first: it is still in the
//! processor's cache. With memory of its own for each, a worker that goes round among its connections would wait for every
//! line of it; and one with nothing to say would hold it all the same.

use std::cell::RefCell;

use bytes::BytesMut;

/// A head and a small body.
pub const PIECE: usize = 8 * 1024;
/// Pieces that a thread keeps.
const KEPT: usize = 64;

thread_local! {
    static SPARE: RefCell<Vec<BytesMut>> = const { RefCell::new(Vec::new()) };
}

/// An empty piece.
pub fn take() -> BytesMut {
    while let Some(mut piece) = SPARE.try_with(|spare| spare.borrow_mut().pop()).ok().flatten() {
        if is_whole(&mut piece) {
            return piece;
        }
    }
    BytesMut::with_capacity(PIECE)
}

/// Whether nothing of an empty piece is in use, not even by who has what was read into it.
pub fn is_whole(piece: &mut BytesMut) -> bool {
    piece.capacity() >= PIECE || piece.try_reclaim(PIECE)
}

/// Takes an empty piece back, of which something may be in use.
pub fn give_back(piece: BytesMut) {
    // A thread that is ending keeps nothing.
    let _ = SPARE.try_with(|spare| {
        let mut spare = spare.borrow_mut();
        if spare.len() < KEPT {
            spare.push(piece);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_used_last_is_used_next() {
        let (one, other) = (take(), take());
        let (first, second) = (one.as_ptr(), other.as_ptr());
        assert_ne!(first, second);
        give_back(other);
        give_back(one);
        assert_eq!(take().as_ptr(), first);
        assert_eq!(take().as_ptr(), second);
    }

    #[test]
    fn what_is_in_use_is_not_given_out() {
        let mut piece = take();
        piece.extend_from_slice(b"something");
        let used = piece.split().freeze();
        give_back(piece);
        let mut next = take();
        next.extend_from_slice(&[b'x'; PIECE]);
        assert_eq!(&used[..], b"something");
    }

    #[test]
    fn what_was_in_use_is_whole_again() {
        let mut piece = take();
        piece.extend_from_slice(b"something");
        let place = piece.as_ptr();
        let used = piece.split().freeze();
        give_back(piece);
        drop(used);
        let next = take();
        assert_eq!((next.as_ptr(), next.len(), next.capacity()), (place, 0, PIECE));
    }

    #[test]
    fn few_are_kept() {
        let pieces: Vec<_> = (0..KEPT * 2).map(|_| take()).collect();
        pieces.into_iter().for_each(give_back);
        SPARE.with_borrow(|spare| assert_eq!(spare.len(), KEPT));
    }
}
