//! What is recorded of HTTP/1 and, in the same form, of HTTP/2.

use super::line::without_port;
use crate::l7::value::Text;

/// Transactions that are listed for one flow; further ones are counted.
pub(super) const MAX_TRANSACTIONS: usize = 32;
/// Bytes of text in the list of transactions beyond which none is added.
pub(super) const MAX_TEXT_BYTES: usize = 64 * 1024;

crate::record! {
    /// One request and its response.
    pub struct Transaction {
        /// Request method. Null if the request was not seen.
        method: Option<Text<30>>,
        /// Host that the request goes to: that of an absolute target, the authority for CONNECT or `:authority` in HTTP/2, else the first Host field; with its port, as sent.
        host: Option<Text<30>>,
        /// Target of the request without scheme and host; the authority for CONNECT. Cut at 1,024 bytes.
        path: Option<Text<30>>,
        /// User-Agent field. Cut at 1,024 bytes.
        user_agent: Option<Text<30>>,
        /// Referer field. Cut at 1,024 bytes.
        referer: Option<Text<30>>,
        /// Status code. Null if the final response was not seen, or if it is not known after a gap in the capture to which request a response belongs.
        status: Option<u16>,
        /// Server field of the response. Cut at 256 bytes.
        server: Option<Text<30>>,
        /// Media type of the request without parameters.
        request_content_type: Option<Text<30>>,
        /// Media type of the response without parameters.
        response_content_type: Option<Text<30>>,
        /// Content-Length of the request in bytes.
        request_content_length: Option<u64>,
        /// Content-Length of the response in bytes; of what GET would answer if the method is HEAD.
        response_content_length: Option<u64>,
    }
}

crate::record! {
    /// The HTTP/1 transactions of a flow.
    pub struct Record {
        /// Transactions in the order of their requests; at most 32, and none after 64 KiB of text.
        transactions: Vec<Transaction>,
        /// All transactions, listed or not.
        transaction_count: u32,
        /// Whether the connection became another protocol (CONNECT or Upgrade).
        upgraded: bool,
        /// Upgrade field of the response that switched protocols (`101`), such as `websocket` or `h2c`. Cut at 256 bytes.
        upgraded_to: Option<Text<22>>,
    }
}

impl Transaction {
    fn text_bytes(&self) -> usize {
        let texts = [
            &self.method,
            &self.host,
            &self.path,
            &self.user_agent,
            &self.referer,
            &self.server,
            &self.request_content_type,
            &self.response_content_type,
        ];
        texts
            .into_iter()
            .flatten()
            .fold(0, |sum, text| sum.saturating_add(text.byte_length()))
    }
}

impl Record {
    /// The first host that a request names, without its port.
    pub(in crate::l7) fn server_name(&self) -> Option<&str> {
        self.transactions
            .iter()
            .find_map(|transaction| transaction.host.as_deref())
            .map(without_port)
    }

    /// Counts a transaction; its index if it is listed.
    pub(in crate::l7) fn add_transaction(&mut self) -> Option<usize> {
        self.transaction_count = self.transaction_count.saturating_add(1);
        let index = self.transactions.len();
        let text = self
            .transactions
            .iter()
            .fold(0_usize, |sum, listed| sum.saturating_add(listed.text_bytes()));
        if index >= MAX_TRANSACTIONS || text >= MAX_TEXT_BYTES {
            return None;
        }
        // Most flows have one.
        if index == self.transactions.capacity() {
            self.transactions.reserve_exact(index.max(1));
        }
        self.transactions.push(Transaction::default());
        Some(index)
    }
}
