//! What an answer of the Core means (`docs/formats/transport.md`, table of answers).

use std::time::Duration;

use chrono::{DateTime, SecondsFormat};
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
    /// Value of `Date`: the clock of whoever answered.
    pub date: Option<String>,
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
        /// Whether the request took too long, or broke off: fewer at a time may do better.
        is_slow: bool,
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
    let is_slow = matches!(body.error.as_str(), "slow" | "cut");
    let back_off = |cause, reason| Verdict::BackOff {
        cause,
        reason,
        retry_after,
        is_slow,
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
        // The clocks differ, and nothing says that it is this one that is wrong: time or the operator mends it, and evidence
        // that was put away would not come back.
        422 if body.is_final("REJECTED") && body.error == "future" && loaded.claims.iat <= now => {
            back_off(Cause::Server, clocks(answer, &body, loaded.claims.iat, now))
        }
        400 | 413 | 422 if body.is_final("REJECTED") => Verdict::Rejected {
            reason: describe(answer.code, &body),
            fork: false,
        },
        409 if body.is_final("FORK") => Verdict::Rejected {
            reason: describe(answer.code, &body),
            fork: true,
        },
        400 | 409 | 413 | 422 => back_off(
            Cause::Server,
            format!(
                "{}, without the status that makes it final; did something between answer in the Core's place?",
                describe(answer.code, &body)
            ),
        ),
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

impl Body {
    /// Whether this is the Core's word that it will never take the batch. A code alone is not: a proxy sends those too.
    fn is_final(&self, status: &str) -> bool {
        self.status == status
    }
}

/// What to say of a batch that the Core takes to be from the future, and this probe does not.
fn clocks(answer: &Answer, body: &Body, iat: i64, now: i64) -> String {
    let time = |seconds| {
        DateTime::from_timestamp(seconds, 0).map_or_else(
            || format!("{seconds} s after 1970"),
            |time| time.to_rfc3339_opts(SecondsFormat::Secs, true),
        )
    };
    let theirs = answer
        .date
        .as_deref()
        .map_or_else(|| "an earlier time, which it does not name".to_owned(), clean);
    format!(
        "the batch was sealed at {}; this probe's clock says {}, the Core's {theirs}: set the one that is wrong ({})",
        time(iat),
        time(now),
        describe(answer.code, body)
    )
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

/// Text from the network: of bounded length and without control characters.
fn clean(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(300).collect()
}

/// One line for people.
fn describe(code: u16, body: &Body) -> String {
    match (clean(&body.error), clean(&body.detail)) {
        (error, detail) if error.is_empty() && detail.is_empty() => format!("the Core answered {code}"),
        (error, detail) if error.is_empty() => format!("the Core answered {code}: {detail}"),
        (error, detail) if detail.is_empty() => format!("the Core answered {code}: {error}"),
        (error, detail) => format!("the Core answered {code}: {error}: {detail}"),
    }
}
