//! TLS hellos, records and certificates as programs send them (RFC 8446, RFC 5246).

use super::random::Random;

/// Content types of records.
const CHANGE_CIPHER_SPEC: u8 = 20;
const HANDSHAKE: u8 = 22;
const APPLICATION_DATA: u8 = 23;

/// A certificate for `traffic.example`, self-signed with P-256 for this purpose; its key was thrown away.
const CERTIFICATE: &[u8] = include_bytes!("certificate.der");

/// Cipher suites of a browser, and of a program on OpenSSL.
const SUITES: [&[u16]; 2] = [
    &[
        0x1301, 0x1303, 0x1302, 0xc02b, 0xc02f, 0xcca9, 0xcca8, 0xc02c, 0xc030, 0xc013, 0xc014, 0x009c,
        0x009d, 0x002f, 0x0035,
    ],
    &[
        0x1302, 0x1303, 0x1301, 0xc02c, 0xc030, 0x009f, 0xcca9, 0xcca8, 0xccaa, 0xc02b, 0xc02f, 0x009e,
    ],
];
/// Cipher suites of a client that speaks TLS 1.2 alone.
const SUITES_12: &[u16] = &[
    0xc02c, 0xc02b, 0xc030, 0xc02f, 0xc024, 0xc023, 0xc028, 0xc027, 0x00ff,
];

/// X25519MLKEM768: group and length of the client's share.
const HYBRID_GROUP: (u16, usize) = (0x11ec, 1216);
const X25519: (u16, usize) = (0x001d, 32);

/// What a client asks for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ask<'a> {
    pub(super) host: &'a str,
    pub(super) alpn: &'a [&'a str],
    /// Whether TLS 1.3 is offered.
    pub(super) tls13: bool,
    /// Encoded transport parameters, where the hello goes into QUIC (RFC 9001 §8.2).
    pub(super) quic_parameters: Option<&'a [u8]>,
}

fn with_length8(content: &[u8]) -> Vec<u8> {
    let mut bytes = vec![content.len() as u8];
    bytes.extend(content);
    bytes
}

fn with_length16(content: &[u8]) -> Vec<u8> {
    let mut bytes = (content.len() as u16).to_be_bytes().to_vec();
    bytes.extend(content);
    bytes
}

fn numbers(values: &[u16]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_be_bytes()).collect()
}

fn extension(extensions: &mut Vec<u8>, kind: u16, content: &[u8]) {
    extensions.extend(kind.to_be_bytes());
    extensions.extend(with_length16(content));
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind];
    bytes.extend(&(body.len() as u32).to_be_bytes()[1..]);
    bytes.extend(body);
    bytes
}

/// One record.
fn record(kind: u8, version: u16, content: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind];
    bytes.extend(version.to_be_bytes());
    bytes.extend(with_length16(content));
    bytes
}

/// Handshake messages as one record.
pub(super) fn handshake_record(version: u16, messages: &[u8]) -> Vec<u8> {
    record(HANDSHAKE, version, messages)
}

/// An encrypted record of TLS 1.3 or application data: random bytes.
pub(super) fn protected(random: &mut Random, bytes: usize) -> Vec<u8> {
    record(APPLICATION_DATA, 0x0303, &random.bytes(bytes))
}

/// The most bytes of a record (RFC 8446 §5.2).
pub(super) const RECORD_MAX_BYTES: usize = (1 << 14) + 256;

/// Bytes of an application-data record's header.
pub(super) const RECORD_HEADER_BYTES: usize = 5;

/// The header of an application-data record of `bytes` bytes.
pub(super) fn record_header(bytes: usize) -> [u8; RECORD_HEADER_BYTES] {
    let [high, low] = (bytes as u16).to_be_bytes();
    [APPLICATION_DATA, 3, 3, high, low]
}

/// A `change_cipher_spec` record.
pub(super) fn change_cipher_spec() -> Vec<u8> {
    record(CHANGE_CIPHER_SPEC, 0x0303, &[1])
}

/// A `ClientHello` message.
pub(super) fn client_hello(ask: &Ask<'_>, random: &mut Random) -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend(random.bytes(32));
    // QUIC has no compatibility mode and sends no session id (RFC 9001 §8.4).
    let session = if ask.quic_parameters.is_none() { 32 } else { 0 };
    body.extend(with_length8(&random.bytes(session)));
    let suites = match (ask.tls13, ask.quic_parameters) {
        (_, Some(_)) => &SUITES[0][..3],
        (true, None) => random.pick(&SUITES),
        (false, None) => SUITES_12,
    };
    body.extend(with_length16(&numbers(suites)));
    body.extend([1, 0]);
    body.extend(with_length16(&client_extensions(ask, random)));
    message(1, &body)
}

fn client_extensions(ask: &Ask<'_>, random: &mut Random) -> Vec<u8> {
    let mut all = Vec::with_capacity(512);
    let mut name = vec![0];
    name.extend(with_length16(ask.host.as_bytes()));
    extension(&mut all, 0, &with_length16(&name));
    extension(&mut all, 23, &[]);
    extension(&mut all, 0xff01, &[0]);
    let hybrid = ask.tls13 && random.chance(0.25);
    let groups: &[u16] = if hybrid {
        &[HYBRID_GROUP.0, X25519.0, 0x0017, 0x0018]
    } else {
        &[X25519.0, 0x0017, 0x0018]
    };
    extension(&mut all, 10, &with_length16(&numbers(groups)));
    extension(&mut all, 11, &[1, 0]);
    if ask.quic_parameters.is_none() {
        extension(&mut all, 35, &[]);
    }
    let protocols: Vec<u8> = ask
        .alpn
        .iter()
        .flat_map(|protocol| with_length8(protocol.as_bytes()))
        .collect();
    extension(&mut all, 16, &with_length16(&protocols));
    extension(&mut all, 5, &[1, 0, 0, 0, 0]);
    let schemes = [0x0403, 0x0804, 0x0401, 0x0503, 0x0805, 0x0501, 0x0806, 0x0601];
    extension(&mut all, 13, &with_length16(&numbers(&schemes)));
    if ask.tls13 {
        let mut shares = Vec::new();
        for (group, length) in [HYBRID_GROUP, X25519] {
            if group == X25519.0 || hybrid {
                shares.extend(group.to_be_bytes());
                shares.extend(with_length16(&random.bytes(length)));
            }
        }
        extension(&mut all, 51, &with_length16(&shares));
        extension(&mut all, 45, &[1, 1]);
        let versions: &[u16] = if ask.quic_parameters.is_some() {
            &[0x0304]
        } else {
            &[0x0304, 0x0303]
        };
        extension(&mut all, 43, &with_length8(&numbers(versions)));
    }
    if let Some(parameters) = ask.quic_parameters {
        extension(&mut all, 57, parameters);
    }
    all
}

/// A `ServerHello` message of TLS 1.3. `session` is what the client's hello carried.
pub(super) fn server_hello_13(session: &[u8], random: &mut Random) -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend(random.bytes(32));
    body.extend(with_length8(session));
    body.extend([0x13, 0x01, 0]);
    let mut extensions = Vec::new();
    extension(&mut extensions, 43, &[3, 4]);
    let mut share = X25519.0.to_be_bytes().to_vec();
    share.extend(with_length16(&random.bytes(X25519.1)));
    extension(&mut extensions, 51, &share);
    body.extend(with_length16(&extensions));
    message(2, &body)
}

/// The session id of a `ClientHello` message.
pub(super) fn session_id(client_hello: &[u8]) -> &[u8] {
    let start = 4 + 2 + 32;
    let length = client_hello.get(start).map_or(0, |length| usize::from(*length));
    client_hello
        .get(start + 1..start + 1 + length)
        .unwrap_or_default()
}

/// The server's first flight in TLS 1.2: hello, certificate, key exchange, done.
pub(super) fn server_flight_12(alpn: &str, random: &mut Random) -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend(random.bytes(32));
    body.extend(with_length8(&random.bytes(32)));
    body.extend([0xc0, 0x2b, 0]);
    let mut extensions = Vec::new();
    extension(&mut extensions, 0xff01, &[0]);
    extension(&mut extensions, 23, &[]);
    extension(&mut extensions, 11, &[1, 0]);
    extension(
        &mut extensions,
        16,
        &with_length16(&with_length8(alpn.as_bytes())),
    );
    body.extend(with_length16(&extensions));
    let mut flight = message(2, &body);

    let mut certificate = (CERTIFICATE.len() as u32).to_be_bytes()[1..].to_vec();
    certificate.extend(CERTIFICATE);
    let mut list = (certificate.len() as u32).to_be_bytes()[1..].to_vec();
    list.extend(certificate);
    flight.extend(message(11, &list));

    // RFC 8422 §5.4: named curve, public value, then the signature.
    let mut exchange = vec![3];
    exchange.extend(X25519.0.to_be_bytes());
    exchange.extend(with_length8(&random.bytes(X25519.1)));
    exchange.extend([4, 3]);
    exchange.extend(with_length16(&random.bytes(71)));
    flight.extend(message(12, &exchange));
    flight.extend(message(14, &[]));
    handshake_record(0x0303, &flight)
}

/// The client's second flight in TLS 1.2: key exchange, change of cipher, an encrypted Finished.
pub(super) fn client_flight_12(random: &mut Random) -> Vec<u8> {
    let mut flight = handshake_record(0x0303, &message(16, &with_length8(&random.bytes(X25519.1))));
    flight.extend(change_cipher_spec());
    flight.extend(finished_12(random));
    flight
}

/// An encrypted Finished of TLS 1.2.
pub(super) fn finished_12(random: &mut Random) -> Vec<u8> {
    handshake_record(0x0303, &random.bytes(40))
}
