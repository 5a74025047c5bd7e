//! Payloads of DNS (RFC 1035, 6891), HTTP/1.1 (RFC 9112) and SSH (RFC 4253) as programs send them.

use super::random::Random;

const WORDS: &[&str] = &[
    "atlas", "birch", "cedar", "delta", "ember", "fjord", "grove", "harbor", "inlet", "juniper", "kelp",
    "lagoon", "maple", "nimbus", "orchid", "pebble", "quartz", "ridge", "spruce", "tundra", "umber",
    "violet", "willow", "yarrow",
];
const KINDS: &[&str] = &["www", "api", "cdn", "img", "static", "mail", "app"];
const ENDS: &[&str] = &["example", "example.com", "example.net", "example.org", "test"];

/// A host name below the domains that RFC 2606 keeps for examples.
pub(super) fn host(random: &mut Random) -> String {
    format!(
        "{}.{}-{}.{}",
        random.pick(KINDS),
        random.pick(WORDS),
        random.pick(WORDS),
        random.pick(ENDS)
    )
}

/// A DNS question and its answer.
pub(super) fn dns(host: &str, random: &mut Random) -> (Vec<u8>, Vec<u8>) {
    /// EDNS: root name, OPT, 1232 bytes, nothing else.
    const OPT: [u8; 11] = [0, 0, 41, 0x04, 0xd0, 0, 0, 0, 0, 0, 0];
    let id = (random.next() as u16).to_be_bytes();
    let ipv6 = random.chance(0.35);
    let missing = random.chance(0.06);
    let mut question = Vec::new();
    for label in host.split('.') {
        question.push(label.len() as u8);
        question.extend(label.as_bytes());
    }
    question.extend([0, 0, if ipv6 { 28 } else { 1 }, 0, 1]);
    let message = |flags: u16, answers: &[Vec<u8>]| {
        let mut bytes = id.to_vec();
        bytes.extend(flags.to_be_bytes());
        bytes.extend([0, 1]);
        bytes.extend((answers.len() as u16).to_be_bytes());
        bytes.extend([0, 0, 0, 1]);
        bytes.extend(&question);
        bytes.extend(answers.iter().flatten());
        bytes.extend(OPT);
        bytes
    };
    let answers: Vec<Vec<u8>> = (0..if missing { 0 } else { 1 + random.below(3) })
        .map(|_| {
            let mut record = vec![0xc0, 0x0c, 0, if ipv6 { 28 } else { 1 }, 0, 1, 0, 0, 1, 0x2c];
            if ipv6 {
                record.extend([0, 16, 0x20, 0x01, 0x0d, 0xb8, 0, 0x5e, 0, 0]);
                record.extend(random.bytes(8));
            } else {
                record.extend([0, 4, 198, 18]);
                record.extend(random.bytes(2));
            }
            record
        })
        .collect();
    let flags = if missing { 0x8183 } else { 0x8180 };
    (message(0x0100, &[]), message(flags, &answers))
}

/// A request, and the header of an answer with a body of `body` bytes.
pub(super) fn http(host: &str, body: usize, random: &mut Random) -> (Vec<u8>, Vec<u8>) {
    let request = format!(
        "GET /{}/{:06x} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) \
         Gecko/20100101 Firefox/128.0\r\nAccept: */*\r\nAccept-Encoding: gzip, br\r\nCookie: session={:032x}\r\n\r\n",
        random.pick(WORDS),
        random.below(1 << 24),
        random.next()
    );
    let response = format!(
        "HTTP/1.1 200 OK\r\nServer: nginx\r\nContent-Type: application/octet-stream\r\nContent-Length: {body}\r\n\
         Cache-Control: max-age=600\r\n\r\n"
    );
    (request.into_bytes(), response.into_bytes())
}

/// An SSH packet before encryption (RFC 4253 §6), padded to a multiple of eight.
fn ssh_packet(payload: &[u8], random: &mut Random) -> Vec<u8> {
    let padding = 4 + (8 - (payload.len() + 5 + 4) % 8) % 8;
    let mut packet = ((payload.len() + padding + 1) as u32).to_be_bytes().to_vec();
    packet.push(padding as u8);
    packet.extend(payload);
    packet.extend(random.bytes(padding));
    packet
}

fn ssh_string(bytes: &[u8]) -> Vec<u8> {
    let mut string = (bytes.len() as u32).to_be_bytes().to_vec();
    string.extend(bytes);
    string
}

/// `SSH_MSG_KEXINIT` (RFC 4253 §7.1) with OpenSSH's lists.
fn kexinit(random: &mut Random) -> Vec<u8> {
    const CIPHERS: &str =
        "chacha20-poly1305@openssh.com,aes128-gcm@openssh.com,aes256-gcm@openssh.com,aes128-ctr";
    const MACS: &str = "umac-128-etm@openssh.com,hmac-sha2-256-etm@openssh.com,hmac-sha2-512";
    let lists = [
        "sntrup761x25519-sha512@openssh.com,curve25519-sha256,ecdh-sha2-nistp256,ext-info-c",
        "ssh-ed25519,rsa-sha2-512,rsa-sha2-256,ecdsa-sha2-nistp256",
        CIPHERS,
        CIPHERS,
        MACS,
        MACS,
        "none,zlib@openssh.com",
        "none,zlib@openssh.com",
        "",
        "",
    ];
    let mut payload = vec![20];
    payload.extend(random.bytes(16));
    for list in lists {
        payload.extend(ssh_string(list.as_bytes()));
    }
    payload.extend([0; 5]);
    ssh_packet(&payload, random)
}

/// The messages of an SSH key exchange with curve25519: who says it, and what.
pub(super) fn ssh(random: &mut Random) -> Vec<(bool, Vec<u8>)> {
    let client = *random.pick(&["SSH-2.0-OpenSSH_9.6\r\n", "SSH-2.0-libssh2_1.11.0\r\n"]);
    let server = *random.pick(&[
        "SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n",
        "SSH-2.0-dropbear_2022.83\r\n",
    ]);
    let mut ask = vec![30];
    ask.extend(ssh_string(&random.bytes(32)));
    let mut answer = vec![31];
    let mut key = ssh_string(b"ssh-ed25519");
    key.extend(ssh_string(&random.bytes(32)));
    answer.extend(ssh_string(&key));
    answer.extend(ssh_string(&random.bytes(32)));
    let mut signature = ssh_string(b"ssh-ed25519");
    signature.extend(ssh_string(&random.bytes(64)));
    answer.extend(ssh_string(&signature));
    let new_keys = ssh_packet(&[21], random);
    let mut reply = ssh_packet(&answer, random);
    reply.extend(&new_keys);
    vec![
        (false, client.as_bytes().to_vec()),
        (true, server.as_bytes().to_vec()),
        (false, kexinit(random)),
        (true, kexinit(random)),
        (false, ssh_packet(&ask, random)),
        (true, reply),
        (false, new_keys),
    ]
}

/// The header of an RTP packet (RFC 3550 §5.1) of payload type 96, and a payload of random bytes.
pub(super) fn rtp(sequence: u16, time: u32, source: u32, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x80, 96];
    packet.extend(sequence.to_be_bytes());
    packet.extend(time.to_be_bytes());
    packet.extend(source.to_be_bytes());
    packet.extend(payload);
    packet
}
