//! Heads that two parsers might read differently, in whatever pieces they come.

use proptest::prelude::*;

use super::*;
use http::header::CONTENT_LENGTH;

/// Parses what comes in `pieces` as far as it goes: the first head or error, and how much was taken.
fn parse_in<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (Result<Option<Read>, HeadError>, usize) {
    let (mut buffer, mut progress) = (BytesMut::new(), Progress::default());
    let (mut request, mut fed) = (Request::new(()), 0);
    for piece in pieces {
        buffer.extend_from_slice(piece);
        fed += piece.len();
        skip_empty_lines(&mut buffer, &mut progress);
        match parse_request(&mut buffer, &mut progress, &mut request) {
            Ok(None) => {}
            Ok(Some(signs)) => {
                let length = {
                    signs.unite_lengths(request.headers_mut());
                    signs.framing()
                };
                return (Ok(Some(Read { request, signs, length })), fed - buffer.len());
            }
            Err(error) => return (Err(error), fed - buffer.len()),
        }
    }
    (Ok(None), fed - buffer.len())
}

#[derive(Debug)]
struct Read {
    request: Request<()>,
    signs: Signs,
    length: Result<Option<Length>, HeadError>,
}

fn parse_whole(wire: &[u8]) -> Result<Option<Read>, HeadError> {
    parse_in([wire]).0
}

fn length_of(headers: &str) -> Result<Option<Length>, HeadError> {
    let found = parse_whole(format!("POST / HTTP/1.1\r\n{headers}\r\n").as_bytes());
    found.unwrap().unwrap().length
}

#[test]
fn framings_are_read_strictly() {
    assert_eq!(length_of(""), Ok(None));
    assert_eq!(length_of("content-length: 7\r\n"), Ok(Some(Length::Known(7))));
    assert_eq!(length_of("content-length: 7\r\ncontent-length: 7\r\n"), Ok(Some(Length::Known(7))));
    for value in ["", "7, 7", "+7", "-7", "0x7", "7 7", "18446744073709551616", "\u{b2}"] {
        let length = length_of(&format!("content-length: {value}\r\n"));
        assert_eq!(length, Err(HeadError::ContentLength), "{value}");
    }
    assert_eq!(
        length_of("content-length: 7\r\ncontent-length: 8\r\ncontent-length: 7\r\n"),
        Err(HeadError::ContentLength)
    );
    assert_eq!(length_of("transfer-encoding: ChunkeD\r\n"), Ok(Some(Length::Chunked)));
    for value in ["", "gzip", "gzip, chunked", "chunked, chunked", "chunked;q=1", "\"chunked\"", "chunked,"] {
        let length = length_of(&format!("transfer-encoding: {value}\r\n"));
        assert_eq!(length, Err(HeadError::Coding), "{value}");
    }
    assert_eq!(
        length_of("transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n"),
        Err(HeadError::Coding)
    );
}

#[test]
fn a_head_with_two_framings_is_the_last_of_its_connection() {
    let both = "POST / HTTP/1.1\r\ncontent-length: 7\r\ntransfer-encoding: chunked\r\n\r\n";
    let found = parse_whole(both.as_bytes()).unwrap().unwrap();
    assert!(found.signs.has_two_framings() && !found.signs.keeps_alive());
}

#[test]
fn what_is_no_header_is_refused() {
    for line in [
        "a b: c",
        "a : b",
        "a\t: b",
        ": b",
        " a: b",
        "a",
        "a: b\r\n c",
        "a: b\rc",
        "a: b\0",
        "a\0: b",
        "\u{e9}: b",
        "a: \u{7f}",
    ] {
        let wire = format!("GET / HTTP/1.1\r\n{line}\r\n\r\n");
        let parsed = parse_whole(wire.as_bytes());
        assert!(matches!(parsed, Err(HeadError::Malformed(_))), "{line:?} gave {parsed:?}");
    }
}

#[test]
fn many_headers_are_read_and_too_many_are_not() {
    let lines = |count: usize| (0..count).map(|n| format!("x-{n}: {n}\r\n")).collect::<Vec<_>>().concat();
    for count in [USUAL_HEADERS, USUAL_HEADERS + 1, MOST_HEADERS] {
        let wire = format!("GET / HTTP/1.1\r\n{}\r\n", lines(count));
        let found = parse_whole(wire.as_bytes()).unwrap().unwrap();
        assert_eq!(found.request.headers().len(), count);
        assert_eq!(found.request.headers()[format!("x-{}", count - 1)], (count - 1).to_string());
    }
    let wire = format!("GET / HTTP/1.1\r\n{}\r\n", lines(MOST_HEADERS + 1));
    assert_eq!(parse_whole(wire.as_bytes()).unwrap_err(), HeadError::TooManyHeaders);
}

#[test]
fn a_target_reaches_the_wire_in_origin_form() {
    for (target, written) in [
        ("/a?b", "GET /a?b HTTP/1.1\r\n"),
        ("http://host", "GET / HTTP/1.1\r\n"),
        ("http://host?b", "GET /?b HTTP/1.1\r\n"),
        ("*", "GET * HTTP/1.1\r\n"),
    ] {
        let mut out = BytesMut::new();
        write_request_line(&mut out, &Method::GET, &target.parse().unwrap());
        assert_eq!(out, written);
    }
}

/// Bytes that mean something to a parser, more often than by chance.
fn wire() -> impl Strategy<Value = Vec<u8>> {
    let part = prop_oneof![
        4 => prop::sample::select(vec![
            &b"\r\n"[..], b"\r\n\r\n", b"\n", b"\r", b" ", b"\t", b":", b",", b"GET ", b"POST / HTTP/1.1\r\n",
            b"GET /x HTTP/1.0\r\n", b"HTTP/1.1", b"/", b"*", b"http://h", b"host: h\r\n", b"content-length: ",
            b"content-length: 5\r\n", b"Content-Length: 6\r\n", b"transfer-encoding: chunked\r\n",
            b"transfer-encoding: gzip, ", b"chunked", b"connection: close\r\n", b"\0", b"expect: 100-continue\r\n",
        ]).prop_map(<[u8]>::to_vec),
        1 => proptest::collection::vec(any::<u8>(), 0..8),
    ];
    proptest::collection::vec(part, 0..14).prop_map(|parts| parts.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn a_head_is_the_same_in_whatever_pieces_and_has_one_framing(
        wire in wire(),
        pieces in proptest::collection::vec(1..30_usize, 1..6),
    ) {
        let (whole, taken) = parse_in([wire.as_slice()]);
        let (mut rest, mut cut) = (wire.as_slice(), Vec::new());
        for length in pieces.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (piece, more) = rest.split_at((*length).min(rest.len()));
            cut.push(piece);
            rest = more;
        }
        let (in_pieces, taken_in_pieces) = parse_in(cut);
        match (&whole, &in_pieces) {
            (Ok(Some(whole)), Ok(Some(found))) => {
                prop_assert_eq!(whole.request.uri(), found.request.uri());
                prop_assert_eq!(whole.request.headers(), found.request.headers());
                prop_assert_eq!(whole.length, found.length);
                prop_assert_eq!(taken, taken_in_pieces);
            }
            // What is refused may be refused later: nobody looks at a head again for each byte of it.
            (Err(_), Err(_) | Ok(None)) | (Ok(None), Ok(None)) => {}
            (whole, found) => prop_assert!(false, "{whole:?} became {found:?}"),
        }
        let Ok(Some(Read { request, signs, length })) = whole else { return Ok(()) };
        let headers = request.headers();
        let lengths = headers.get_all(CONTENT_LENGTH).iter().count();
        let codings = headers.get_all(http::header::TRANSFER_ENCODING).iter().count();
        match length {
            Ok(None) => prop_assert_eq!((lengths, codings), (0, 0)),
            Ok(Some(Length::Known(bytes))) => {
                prop_assert_eq!((lengths, codings), (1, 0));
                prop_assert_eq!(number(headers[CONTENT_LENGTH].as_bytes()), Some(bytes));
            }
            Ok(Some(Length::Chunked)) => {
                prop_assert_eq!(codings, 1);
                prop_assert!(lengths == 0 || !signs.keeps_alive());
                prop_assert_eq!(signs.version, Version::HTTP_11);
            }
            Ok(Some(Length::UntilClose)) => prop_assert!(false, "a request without an end"),
            Err(_) => {}
        }
    }

    #[test]
    fn no_bytes_make_answers_or_trailers_panic(wire in wire()) {
        let mut buffer = BytesMut::from(wire.as_slice());
        let _ = parse_response(&mut buffer, &mut Progress::default());
        let _ = parse_trailers(&mut BytesMut::from(wire.as_slice()));
    }
}

#[test]
fn a_response_that_becomes_a_map_keeps_nothing_of_what_was_read() {
    const ROOM: usize = 64 * 1024;
    let mut buffer = BytesMut::with_capacity(ROOM);
    buffer.extend_from_slice(b"HTTP/1.1 200 OK\r\na:b\r\n\r\n");
    let (_, headers, _) = parse_response(&mut buffer, &mut Progress::default()).unwrap().unwrap();
    assert!(matches!(headers, Headers::Map(_)));
    assert!(buffer.try_reclaim(ROOM));
    assert_eq!(headers.into_map()["a"], "b");
}
