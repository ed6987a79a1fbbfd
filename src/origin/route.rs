//! Which endpoint a path names.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Route<'a> {
    Hello,
    Bytes(u64),
    Item(&'a str),
    Now,
    Slow { ms: u64 },
    Stream { chunks: u64, ms: u64 },
    Events,
    Ledger,
    LedgerKey(&'a str),
    Echo,
    Upload,
    Status(u16),
    Headers,
    WebSocket,
    Tagged,
    Cookie,
    GraphQl,
    Rpc,
    GrpcGet,
    GrpcPut,
    Seen,
    Faults,
    Unknown,
}

impl Route<'_> {
    /// Not part of the application: neither counted nor hit by faults.
    pub fn is_control(self) -> bool {
        matches!(self, Self::Seen | Self::Faults)
    }
}

pub(super) fn route(path: &str) -> Route<'_> {
    let mut segments = path.strip_prefix('/').unwrap_or(path).splitn(3, '/');
    let first = segments.next().unwrap_or_default();
    let rest = (segments.next(), segments.next());
    found(first, rest).unwrap_or(Route::Unknown)
}

fn found<'a>(first: &'a str, rest: (Option<&'a str>, Option<&'a str>)) -> Option<Route<'a>> {
    Some(match (first, rest) {
        ("", (None, _)) => Route::Hello,
        ("bytes", (Some(n), None)) => Route::Bytes(n.parse().ok()?),
        ("item", (Some(id), None)) if !id.is_empty() => Route::Item(id),
        ("now", (None, _)) => Route::Now,
        ("slow", (Some(ms), None)) => Route::Slow { ms: ms.parse().ok()? },
        ("stream", (Some(chunks), Some(ms))) => {
            Route::Stream { chunks: chunks.parse().ok()?, ms: ms.parse().ok()? }
        }
        ("sse", (None, _)) => Route::Events,
        ("ledger", (None, _)) => Route::Ledger,
        ("ledger", (Some(key), None)) if !key.is_empty() => Route::LedgerKey(key),
        ("echo", (None, _)) => Route::Echo,
        ("upload", (None, _)) => Route::Upload,
        ("status", (Some(code), None)) => Route::Status(code.parse().ok()?),
        ("headers", (None, _)) => Route::Headers,
        ("ws", (None, _)) => Route::WebSocket,
        ("etag", (None, _)) => Route::Tagged,
        ("cookie", (None, _)) => Route::Cookie,
        ("graphql", (None, _)) => Route::GraphQl,
        ("rpc", (None, _)) => Route::Rpc,
        ("segue.sample.Sample", (Some("Get"), None)) => Route::GrpcGet,
        ("segue.sample.Sample", (Some("Put"), None)) => Route::GrpcPut,
        ("__seen", (None, _)) => Route::Seen,
        ("__fault", (None, _)) => Route::Faults,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_endpoints_and_nothing_else_does() {
        assert_eq!(route("/"), Route::Hello);
        assert_eq!(route("/bytes/12"), Route::Bytes(12));
        assert_eq!(route("/stream/3/10"), Route::Stream { chunks: 3, ms: 10 });
        assert_eq!(route("/ledger"), Route::Ledger);
        assert_eq!(route("/ledger/k-1"), Route::LedgerKey("k-1"));
        assert_eq!(route("/segue.sample.Sample/Put"), Route::GrpcPut);
        for unknown in ["/bytes", "/bytes/x", "/bytes/1/2", "/item/", "/ledger/a/b", "/nothing", "//", "*"] {
            assert_eq!(route(unknown), Route::Unknown, "{unknown}");
        }
    }
}
