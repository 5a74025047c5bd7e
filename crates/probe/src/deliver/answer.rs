//! What an answer of the Core means (`docs/formats/transport.md`, table of answers).

use std::time::Duration;

use serde::Deserialize;

use crate::seal::receipt::{Authority, Receipt, ReceiptError};
use crate::spool::{Entry, Form, Loaded};

/// Longest answer that is read, in bytes.
pub const MAX_ANSWER_BYTES: usize = 64 * 1024;

/// An HTTP answer, as far as it matters.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// Status code.
    pub code: u16,
    /// Value of `Retry-After`.
    pub retry_after: Option<String>,
    /// Value of `X-Backpressure`.
    pub backpressure: Option<String>,
    /// The body, at most [`MAX_ANSWER_BYTES`].
    pub body: Vec<u8>,
}

/// The JSON object in an answer; members that are not known are ignored.
#[derive(Debug, Default, Deserialize)]
struct Body {
    #[serde(default)]
    status: String,
    #[serde(default)]
    receipt: Option<String>,
    #[serde(default)]
    error: String,
    #[serde(default)]
    detail: String,
}

/// Why everything waits before the next try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The Core asked for it.
    Backpressure,
    /// The Core answered that it cannot work, or with a code that is not part of the protocol.
    Server,
    /// No answer.
    Connection,
    /// An answer that should have held a receipt, and did not hold a good one.
    Receipt,
}

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Archived, with a receipt that holds: delete it. `slow_down`: and back off.
    Acknowledged {
        /// Whether the Core asked to back off.
        slow_down: bool,
        /// `Retry-After`.
        retry_after: Option<Duration>,
    },
    /// Refused for good: put it away.
    Rejected {
        /// One line.
        reason: String,
        /// Whether it is a fork.
        fork: bool,
    },
    /// This probe is not trusted: stop delivering.
    Refused {
        /// One line.
        reason: String,
    },
    /// Try again later.
    BackOff {
        /// Why.
        cause: Cause,
        /// One line.
        reason: String,
        /// `Retry-After`.
        retry_after: Option<Duration>,
    },
}

/// Judges the answer to a request that carried `loaded`. `now` is in seconds since 1970.
pub fn judge(answer: &Answer, entry: &Entry, loaded: &Loaded, authority: &Authority, now: i64) -> Verdict {
    let body: Body = serde_json::from_slice(&answer.body).unwrap_or_default();
    let retry_after = answer
        .retry_after
        .as_deref()
        .and_then(|text| text.trim().parse().ok())
        .map(Duration::from_secs);
    let asked = answer
        .backpressure
        .as_deref()
        .is_some_and(|value| value.trim().eq_ignore_ascii_case("true"))
        || body.status == "BACKPRESSURE";
    let back_off = |cause, reason| Verdict::BackOff {
        cause,
        reason,
        retry_after,
    };
    match answer.code {
        200 | 201 => match (body.receipt, asked) {
            (Some(receipt), slow_down) => match check(&receipt, entry, loaded, authority, now) {
                Ok(_) => Verdict::Acknowledged {
                    slow_down,
                    retry_after,
                },
                Err(error) => back_off(
                    Cause::Receipt,
                    format!("the Core's receipt is not accepted: {error}"),
                ),
            },
            (None, true) => back_off(Cause::Backpressure, "the Core is overloaded".to_owned()),
            (None, false) => back_off(
                Cause::Receipt,
                format!("the Core answered {} without a receipt", answer.code),
            ),
        },
        429 => back_off(Cause::Backpressure, "the Core is overloaded".to_owned()),
        _ if asked => back_off(Cause::Backpressure, "the Core is overloaded".to_owned()),
        400 | 409 | 413 | 422 => Verdict::Rejected {
            reason: describe(answer.code, &body),
            fork: answer.code == 409,
        },
        401 | 403 => Verdict::Refused {
            reason: describe(answer.code, &body),
        },
        500..=599 => back_off(Cause::Server, describe(answer.code, &body)),
        code => back_off(
            Cause::Server,
            format!("the Core answered {code}, which is not part of the protocol; is CORE_API_URL right?"),
        ),
    }
}

fn check(
    jws: &str,
    entry: &Entry,
    loaded: &Loaded,
    authority: &Authority,
    now: i64,
) -> Result<Receipt, ReceiptError> {
    let receipt = authority.verify_receipt(jws, now)?;
    receipt.is_for(&loaded.claims.iss, &loaded.head, entry.form == Form::Batch)?;
    Ok(receipt)
}

/// One line for people, of bounded length and without control characters: the text comes from the network.
fn describe(code: u16, body: &Body) -> String {
    let clean = |text: &str| {
        text.chars()
            .filter(|c| !c.is_control())
            .take(300)
            .collect::<String>()
    };
    match (clean(&body.error), clean(&body.detail)) {
        (error, detail) if error.is_empty() && detail.is_empty() => format!("the Core answered {code}"),
        (error, detail) if error.is_empty() => format!("the Core answered {code}: {detail}"),
        (error, detail) if detail.is_empty() => format!("the Core answered {code}: {error}"),
        (error, detail) => format!("the Core answered {code}: {error}: {detail}"),
    }
}
