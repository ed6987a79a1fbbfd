//! What a fault makes of an answer that is otherwise ready.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{StatusCode, Version};
use http_body::Body as _;

use super::answer::{Answer, empty};
use super::body::{Altered, AnswerBody, Cut, Ending, ResetBy};
use super::fault::FaultKind;
use super::socket::Sabotage;

pub(super) fn spoil(
    mut answer: Answer,
    fault: FaultKind,
    version: Version,
    sabotage: &Arc<Sabotage>,
) -> Answer {
    match fault {
        FaultKind::HangAfterHeader => cut(answer, 0, Ending::Hang, sabotage),
        FaultKind::Reset => {
            let by = if version == Version::HTTP_2 { ResetBy::Stream } else { ResetBy::Connection };
            if answer.body().is_end_stream() && by == ResetBy::Connection {
                // There is no body to be in the middle of.
                sabotage.reset();
                return answer;
            }
            let half = half(&answer);
            cut(answer, half, Ending::Reset(by), sabotage)
        }
        FaultKind::Truncate => {
            let half = half(&answer);
            cut(answer, half, Ending::Truncate, sabotage)
        }
        FaultKind::EndlessBody => {
            let endless = futures_util::stream::repeat_with(|| {
                Ok(http_body::Frame::data(super::content::pattern_from(0, u64::MAX)))
            });
            replace_body(answer, AnswerBody::stream(http_body_util::StreamBody::new(endless)))
        }
        FaultKind::HugeBody(size) => replace_body(answer, AnswerBody::Pattern { at: 0, end: size.bytes() }),
        FaultKind::Malformed => {
            sabotage.garble();
            answer
        }
        FaultKind::WrongBody => {
            let body = std::mem::replace(answer.body_mut(), AnswerBody::EMPTY);
            *answer.body_mut() = match body {
                // The usual case keeps its exact length in one piece.
                body if body.is_end_stream() => AnswerBody::Whole(Bytes::new()),
                body => AnswerBody::stream(Altered { body, done: false }),
            };
            answer
        }
        FaultKind::Error(status) => empty(status),
        FaultKind::Refuse | FaultKind::HangAfterAccept | FaultKind::Hang | FaultKind::Delay { .. } => answer,
    }
}

fn half(answer: &Answer) -> u64 {
    answer.body().size_hint().exact().map_or(1, |length| length / 2)
}

/// Announces the whole length, where it is known, and delivers only the first `left` bytes.
fn cut(mut answer: Answer, left: u64, ending: Ending, sabotage: &Arc<Sabotage>) -> Answer {
    if let Some(length) = answer.body().size_hint().exact() {
        // An answer of no bytes is announced as one byte, so that something can be missing.
        answer.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(length.max(1)));
    }
    let body = std::mem::replace(answer.body_mut(), AnswerBody::EMPTY);
    let cut = Cut { body, left, ending, sabotage: Arc::clone(sabotage), flushed: false };
    *answer.body_mut() = AnswerBody::stream(cut);
    answer
}

fn replace_body(mut answer: Answer, body: AnswerBody) -> Answer {
    // Statuses that have no body would hide it.
    *answer.status_mut() = StatusCode::OK;
    // An answer to HEAD announces the body that it does not have; now it would be another one.
    answer.headers_mut().remove(header::CONTENT_LENGTH);
    *answer.body_mut() = body;
    answer
}
