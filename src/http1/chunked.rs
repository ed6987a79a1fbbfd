//! The chunked transfer coding (RFC 9112 §7.1), read piece by piece and written.

use bytes::{Buf, Bytes, BytesMut};
use http::header::{self, HeaderMap, HeaderName};

use super::head::{self, HeadError};
use super::incoming::BodyError;

/// Hexadecimal digits of a chunk's size: 2⁶⁰ bytes is beyond any body.
const MAX_SIZE_DIGITS: u8 = 15;
/// Of chunk extensions in the whole body. Nobody uses them but those who want to keep a server busy.
const MAX_EXTENSION_BYTES: usize = 16 * 1024;
/// Of the trailer section.
const MAX_TRAILER_BYTES: usize = 16 * 1024;

/// Where in the coding the next byte stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// In a size, of which so many digits were read.
    Size {
        digits: u8,
        size: u64,
    },
    /// White space after a size (RFC 9112 §7.1.1 lets it stand before an extension).
    SizeBlank(u64),
    Extension(u64),
    SizeNewline(u64),
    Data(u64),
    DataReturn,
    DataNewline,
    Trailers,
    End,
}

#[derive(Debug)]
pub struct Decoder {
    at: At,
    extension_bytes: usize,
}

/// What the next bytes were.
#[derive(Debug)]
pub enum Piece {
    Data(Bytes),
    Trailers(HeaderMap),
    End,
    /// They are not there yet.
    Missing,
}

impl Decoder {
    pub const fn new() -> Self {
        Self { at: At::Size { digits: 0, size: 0 }, extension_bytes: 0 }
    }

    pub fn is_at_end(&self) -> bool {
        self.at == At::End
    }

    /// Takes the end of the body if nothing else comes before it, so that it need not be asked for.
    pub fn end_if_next(&mut self, buffer: &mut BytesMut) {
        const END: &[u8] = b"\r\n0\r\n\r\n";
        if self.at == At::DataReturn && buffer.starts_with(END) {
            buffer.advance(END.len());
            self.at = At::End;
        }
    }

    pub fn next(&mut self, buffer: &mut BytesMut) -> Result<Piece, BodyError> {
        loop {
            match self.at {
                At::End => return Ok(Piece::End),
                At::Data(left) => {
                    if buffer.is_empty() {
                        return Ok(Piece::Missing);
                    }
                    let length = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
                    let rest = left - length as u64;
                    self.at = if rest == 0 { At::DataReturn } else { At::Data(rest) };
                    return Ok(Piece::Data(buffer.split_to(length).freeze()));
                }
                At::Trailers => {
                    let Some(trailers) = head::parse_trailers(buffer).map_err(trailers)? else {
                        return if buffer.len() > MAX_TRAILER_BYTES {
                            Err(BodyError::TrailersTooLarge)
                        } else {
                            Ok(Piece::Missing)
                        };
                    };
                    self.at = At::End;
                    return Ok(if trailers.is_empty() { Piece::End } else { Piece::Trailers(trailers) });
                }
                _ => {}
            }
            let Some(&byte) = buffer.first() else { return Ok(Piece::Missing) };
            self.at = self.after(byte)?;
            buffer.advance(1);
        }
    }

    /// The framing itself, a byte at a time: a few bytes a chunk.
    fn after(&mut self, byte: u8) -> Result<At, BodyError> {
        Ok(match (self.at, byte) {
            (At::Size { digits, size }, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                if digits == MAX_SIZE_DIGITS {
                    return Err(BodyError::BadChunk);
                }
                let digit = char::from(byte).to_digit(16).unwrap_or_default();
                At::Size { digits: digits + 1, size: size << 4 | u64::from(digit) }
            }
            (At::Size { digits: 1.., size } | At::SizeBlank(size), b' ' | b'\t') => At::SizeBlank(size),
            (At::Size { digits: 1.., size } | At::SizeBlank(size), b';') => At::Extension(size),
            (At::Size { digits: 1.., size } | At::SizeBlank(size) | At::Extension(size), b'\r') => {
                At::SizeNewline(size)
            }
            // A bare line feed inside an extension ends the line for some parsers and not for others.
            (At::Extension(size), byte) if byte != b'\n' => {
                self.extension_bytes += 1;
                if self.extension_bytes > MAX_EXTENSION_BYTES {
                    return Err(BodyError::BadChunk);
                }
                At::Extension(size)
            }
            (At::SizeNewline(0), b'\n') => At::Trailers,
            (At::SizeNewline(size), b'\n') => At::Data(size),
            (At::DataReturn, b'\r') => At::DataNewline,
            (At::DataNewline, b'\n') => At::Size { digits: 0, size: 0 },
            _ => return Err(BodyError::BadChunk),
        })
    }
}

fn trailers(error: HeadError) -> BodyError {
    match error {
        HeadError::TooLarge | HeadError::TooManyHeaders => BodyError::TrailersTooLarge,
        _ => BodyError::BadTrailers,
    }
}

/// Opens a chunk of `length` bytes, which is not 0: that would end the body.
pub fn open(out: &mut BytesMut, length: usize) {
    let mut digits = [0; 16];
    let mut at = digits.len();
    let mut left = length;
    while left > 0 && at > 0 {
        at -= 1;
        if let Some(digit) = digits.get_mut(at) {
            *digit = b"0123456789abcdef"[left & 15];
        }
        left >>= 4;
    }
    out.extend_from_slice(digits.get(at..).unwrap_or_default());
    out.extend_from_slice(b"\r\n");
}

/// Not what frames, routes or authenticates a message, or says how to read it (RFC 9110 §6.5.1): some recipients merge
/// trailers into the head.
fn may_trail(name: &HeaderName) -> bool {
    ![
        header::TRANSFER_ENCODING,
        header::CONTENT_LENGTH,
        header::HOST,
        header::CONNECTION,
        header::UPGRADE,
        header::TE,
        header::TRAILER,
        header::EXPECT,
        header::AUTHORIZATION,
        header::COOKIE,
        header::SET_COOKIE,
        header::LOCATION,
        header::CACHE_CONTROL,
        header::CONTENT_ENCODING,
        header::CONTENT_RANGE,
        header::CONTENT_TYPE,
    ]
    .contains(name)
}

/// Ends the body.
pub fn end(out: &mut BytesMut, trailers: Option<&HeaderMap>) {
    out.extend_from_slice(b"0\r\n");
    for (name, value) in trailers.into_iter().flatten().filter(|(name, _)| may_trail(name)) {
        head::write_header(out, name.as_str(), value.as_bytes());
    }
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn decode(wire: &[u8], cuts: &[usize]) -> Result<(Vec<u8>, Option<HeaderMap>, usize), BodyError> {
        let (mut decoder, mut buffer) = (Decoder::new(), BytesMut::new());
        let (mut data, mut trailers, mut from) = (Vec::new(), None, 0);
        let mut cuts = cuts.iter().copied().chain([wire.len()]);
        loop {
            match decoder.next(&mut buffer)? {
                Piece::Data(bytes) => data.extend_from_slice(&bytes),
                Piece::Trailers(map) => trailers = Some(map),
                Piece::End => return Ok((data, trailers, wire.len() - from + buffer.len())),
                Piece::Missing => {
                    let to = cuts.next().ok_or(BodyError::Incomplete)?.clamp(from, wire.len());
                    buffer.extend_from_slice(&wire[from..to]);
                    from = to;
                }
            }
        }
    }

    #[test]
    fn what_is_no_chunk_is_refused() {
        for wire in [
            &b"\r\n"[..],
            b"g\r\n",
            b"-1\r\n",
            b"0x1\r\na\r\n",
            b" 1\r\na\r\n",
            b"1\na\r\n0\r\n\r\n",
            b"1\r\nab\r\n",
            b"1\r\na\n0\r\n\r\n",
            b"1;a\nb\r\na\r\n0\r\n\r\n",
            b"1 1\r\na\r\n",
            b"1000000000000000\r\n",
            b"1\r\na0\r\n\r\n",
            b"0\r\n bad: folded\r\n\r\n",
            b"0\r\nno colon\r\n\r\n",
        ] {
            let decoded = decode(wire, &[]);
            assert!(
                matches!(decoded, Err(BodyError::BadChunk | BodyError::BadTrailers)),
                "{:?} gave {decoded:?}",
                String::from_utf8_lossy(wire)
            );
        }
    }

    #[test]
    fn extensions_and_trailers_are_read_over() {
        let wire = b"3;name=\"value\"\r\nabc\r\n2 ;x\r\nde\r\n000;end\r\nX-Sum: 5\r\n\r\nGET ";
        let (data, trailers, left) = decode(wire, &[]).unwrap();
        assert_eq!((data.as_slice(), left), (&b"abcde"[..], 4));
        assert_eq!(trailers.unwrap()["x-sum"], "5");
        let long = format!("1;{}\r\na\r\n0\r\n\r\n", "x".repeat(MAX_EXTENSION_BYTES + 1));
        assert!(matches!(decode(long.as_bytes(), &[]), Err(BodyError::BadChunk)));
        let long = format!("0\r\nx: {}\r\n\r\n", "x".repeat(MAX_TRAILER_BYTES * 2));
        let cuts: Vec<_> = (0..40).map(|n| n * 1000).collect();
        assert!(matches!(decode(long.as_bytes(), &cuts), Err(BodyError::TrailersTooLarge)));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_however_it_is_cut(
            chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..300), 0..6),
            cuts in proptest::collection::vec(0usize..2000, 0..12),
            with_trailers in any::<bool>(),
        ) {
            let mut wire = BytesMut::new();
            for chunk in &chunks {
                open(&mut wire, chunk.len());
                wire.extend_from_slice(chunk);
                wire.extend_from_slice(b"\r\n");
            }
            let mut trailers = HeaderMap::new();
            trailers.insert("x-sum", HeaderValue::from_static("1"));
            let trailers = with_trailers.then_some(trailers);
            end(&mut wire, trailers.as_ref());
            let mut cuts = cuts;
            cuts.sort_unstable();
            let (data, read, left) = decode(&wire, &cuts).unwrap();
            prop_assert_eq!(data, chunks.concat());
            prop_assert_eq!(read, trailers);
            prop_assert_eq!(left, 0);
        }

        #[test]
        fn no_bytes_make_it_panic(wire in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&wire, &[]);
        }
    }
}
