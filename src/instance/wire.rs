//! One request on a connection of its own, and the whole of its answer.

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

#[derive(Debug, thiserror::Error)]
pub(super) enum WireError {
    #[error("it breaks off: {0}")]
    Http(#[from] hyper::Error),
    #[error("its answer is not read to its end: {0}")]
    Body(Box<dyn std::error::Error + Send + Sync>),
    #[error("its answer is larger than {0} bytes")]
    TooLarge(usize),
}

/// `request` is sent as it is: `Host` and everything else is the caller's to set. An answer of more than `most` bytes is
/// an error.
pub(super) async fn exchange<S>(
    stream: S,
    request: Request<Full<Bytes>>,
    most: usize,
) -> Result<Response<Bytes>, WireError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let talking = async {
        let (head, body) = sender.send_request(request).await?.into_parts();
        let body = Limited::new(body, most).collect().await;
        let body = body.map_err(|error| match error.downcast::<LengthLimitError>() {
            Ok(_) => WireError::TooLarge(most),
            Err(error) => WireError::Body(error),
        })?;
        Ok(Response::from_parts(head, body.to_bytes()))
    };
    let mut talking = std::pin::pin!(talking);
    // Driven here, so that nothing is left of it when nobody waits any more.
    tokio::select! {
        answer = &mut talking => return answer,
        // It may be over before everything that it brought has been taken.
        ended = connection => ended?,
    }
    talking.await
}
