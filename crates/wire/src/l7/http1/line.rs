//! The lines of HTTP/1 (RFC 9112 §3 to §5, §7.1) and the parts of their values that a record shows.

use crate::l7::find_byte;

/// Bytes of a line without an end that are looked at again with every segment.
const MAX_BEGINNING_BYTES: usize = 512;

/// `HTTP/1.1 200 OK`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct StatusLine {
    pub(super) code: u16,
}

impl StatusLine {
    pub(super) fn parse(line: &[u8]) -> Option<Self> {
        let rest = version(line)?;
        let (digits, rest) = rest.strip_prefix(b" ")?.split_at_checked(3)?;
        let code = u16::try_from(number(digits)?).ok()?;
        // The reason phrase and even the space before it may be missing.
        let ends = rest.first().is_none_or(|&byte| byte == b' ');
        (ends && (100..1000).contains(&code)).then_some(Self { code })
    }
}

/// `GET /path HTTP/1.1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RequestLine<'a> {
    pub(super) method: &'a [u8],
    pub(super) target: &'a [u8],
}

impl<'a> RequestLine<'a> {
    pub(super) fn parse(line: &'a [u8]) -> Option<Self> {
        let space = line.iter().position(|&byte| byte == b' ')?;
        let (method, rest) = line.split_at_checked(space)?;
        let rest = trim(rest);
        if is_method(method) && version(rest).is_some_and(<[u8]>::is_empty) {
            // Without a target, which servers answer with an error.
            return Some(Self { method, target: b"" });
        }
        // Clients send targets with spaces inside: the version is what stands behind the last one.
        let space = rest.iter().rposition(|&byte| byte == b' ')?;
        let (target, version_text) = rest.split_at_checked(space)?;
        let target = trim(target);
        let valid = is_method(method) && version(trim(version_text))?.is_empty() && !has_control(target);
        (valid && !target.is_empty()).then_some(Self { method, target })
    }
}

/// What follows `HTTP/1.x`.
fn version(bytes: &[u8]) -> Option<&[u8]> {
    match bytes.strip_prefix(b"HTTP/1.")? {
        [b'0'..=b'9', rest @ ..] => Some(rest),
        _ => None,
    }
}

/// Whether the bytes begin a response, or may once there are more of them.
pub(super) fn may_begin_response(bytes: &[u8]) -> bool {
    bytes
        .iter()
        .zip(b"HTTP/1.")
        .all(|(byte, expected)| byte == expected)
}

/// Whether bytes without a line end may begin a start line, by the first of them: whatever passes [`StatusLine::parse`]
/// or [`RequestLine::parse`] passes here at every length.
pub(super) fn may_begin_start_line(bytes: &[u8]) -> bool {
    let bytes = bytes.get(..MAX_BEGINNING_BYTES).unwrap_or(bytes);
    let line = bytes.strip_suffix(b"\r").unwrap_or(bytes);
    let method = line.split(|&byte| byte == b' ').next().unwrap_or_default();
    may_begin_response(line) || (is_method(method) && !has_control(line))
}

/// Whether the bytes begin a request that nothing but HTTP begins so, even if its line is not complete (a capture may
/// have cut it): one of the common methods, and a path or a URL of HTTP.
pub(super) fn is_unmistakable_request(bytes: &[u8]) -> bool {
    const METHODS: [&[u8]; 6] = [b"GET ", b"POST ", b"HEAD ", b"PUT ", b"DELETE ", b"PATCH "];
    let target = METHODS.iter().find_map(|method| bytes.strip_prefix(*method));
    target.is_some_and(|target| target.starts_with(b"/") || target.starts_with(b"http://"))
}

/// Whether there is a control character, which has no place in a request line but for the tab that servers tolerate.
fn has_control(bytes: &[u8]) -> bool {
    bytes.iter().any(|byte| byte.is_ascii_control() && *byte != b'\t')
}

/// A token (RFC 9110 §5.6.2) that begins with a letter, of a length that methods have.
fn is_method(bytes: &[u8]) -> bool {
    bytes.len() <= 32
        && bytes.first().is_some_and(u8::is_ascii_alphabetic)
        && bytes
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte))
}

/// Name and value of a field line.
pub(super) fn field(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let colon = find_byte(line, b':')?;
    let (name, value) = line.split_at_checked(colon)?;
    // Space before the colon is forbidden to send (RFC 9112 §5.1), and read by many servers.
    Some((trim(name), trim(value.get(1..)?)))
}

/// Without spaces and tabs at either end.
pub(super) fn trim(bytes: &[u8]) -> &[u8] {
    let start = bytes
        .iter()
        .position(|byte| !matches!(byte, b' ' | b'\t'))
        .unwrap_or(bytes.len());
    let end = bytes
        .iter()
        .rposition(|byte| !matches!(byte, b' ' | b'\t'))
        .map_or(start, |last| last.saturating_add(1));
    bytes.get(start..end).unwrap_or_default()
}

/// The host of an absolute target or of CONNECT's authority, and the path (RFC 9112 §3.2).
pub(super) fn host_of_target<'a>(method: &[u8], target: &'a [u8]) -> (Option<&'a [u8]>, &'a [u8]) {
    if method == b"CONNECT" {
        return (Some(target), target);
    }
    let scheme = target.windows(3).position(|window| window == b"://");
    let is_scheme = |bytes: &[u8]| bytes.iter().all(u8::is_ascii_alphanumeric) && !bytes.is_empty();
    let Some((scheme, rest)) = scheme.and_then(|end| target.split_at_checked(end)) else {
        return (None, target);
    };
    if !is_scheme(scheme) {
        return (None, target);
    }
    let authority = rest.get(3..).unwrap_or_default();
    let end = authority
        .iter()
        .position(|byte| matches!(byte, b'/' | b'?' | b'#'))
        .unwrap_or(authority.len());
    let (authority, path) = authority.split_at_checked(end).unwrap_or((authority, &[]));
    // What stands before an @ are credentials.
    let host = authority.rsplit(|&byte| byte == b'@').next().unwrap_or_default();
    (Some(host), if path.is_empty() { b"/" } else { path })
}

/// A host without its port; the brackets of an IPv6 address stay.
pub(super) fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port))
            if port.bytes().all(|byte| byte.is_ascii_digit()) && !ends_inside_brackets(name) =>
        {
            name
        }
        _ => host,
    }
}

/// Whether a colon behind `name` would belong to an IPv6 address.
fn ends_inside_brackets(name: &str) -> bool {
    name.starts_with('[') && !name.ends_with(']')
}

/// The media type without parameters.
pub(in crate::l7) fn media_type(value: &[u8]) -> &[u8] {
    trim(value.split(|&byte| byte == b';').next().unwrap_or_default())
}

/// Whether a comma-separated list has the token, in any case.
pub(super) fn token_listed(list: &[u8], token: &[u8]) -> bool {
    list.split(|&byte| byte == b',')
        .any(|item| media_type(item).eq_ignore_ascii_case(token))
}

/// A decimal number; of a list of numbers the first.
pub(in crate::l7) fn number(value: &[u8]) -> Option<u64> {
    let digits = trim(value.split(|&byte| byte == b',').next().unwrap_or_default());
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |sum, digit| {
        let digit = digit.checked_sub(b'0').filter(|digit| *digit <= 9)?;
        sum.checked_mul(10)?.checked_add(digit.into())
    })
}

/// The size in a chunk's first line (RFC 9112 §7.1), extensions left out.
pub(super) fn chunk_size(line: &[u8]) -> Option<u64> {
    let digits = trim(line.split(|&byte| byte == b';').next().unwrap_or_default());
    if digits.is_empty() || digits.len() > 16 {
        return None;
    }
    digits.iter().try_fold(0_u64, |sum, &digit| {
        let digit = char::from(digit).to_digit(16)?;
        sum.checked_mul(16)?.checked_add(digit.into())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn start_lines() {
        let request = RequestLine::parse(b"GET /a b HTTP/1.1");
        assert_eq!(
            request,
            Some(RequestLine {
                method: b"GET",
                target: b"/a b"
            }),
            "spaces in the target"
        );
        assert_eq!(RequestLine::parse(b"OPTIONS rtsp://host RTSP/1.0"), None);
        assert_eq!(
            RequestLine::parse(b"GET HTTP/1.1"),
            Some(RequestLine {
                method: b"GET",
                target: b""
            })
        );
        assert_eq!(RequestLine::parse(b"G@T / HTTP/1.1"), None);
        assert_eq!(
            StatusLine::parse(b"HTTP/1.1 200 OK"),
            Some(StatusLine { code: 200 })
        );
        assert_eq!(StatusLine::parse(b"HTTP/1.0 404"), Some(StatusLine { code: 404 }));
        assert_eq!(StatusLine::parse(b"HTTP/1.1 2000"), None);
        assert_eq!(StatusLine::parse(b"HTTP/2 200"), None);
        assert!(may_begin_start_line(b"GE") && may_begin_start_line(b"GET /x") && may_begin_start_line(b""));
        assert!(!may_begin_start_line(b"\x16\x03") && !may_begin_start_line(b"GET /\x00"));
    }

    #[test]
    fn what_is_a_start_line_may_begin_one_at_every_length() {
        let target = "/x".repeat(1000);
        for line in [
            format!("{} {target} HTTP/1.1\r", "M".repeat(32)),
            format!("GET \t{target}\t{target} HTTP/1.0\r"),
            format!("GET {}HTTP/1.1\r", " ".repeat(1000)),
            format!("HTTP/1.1 200 {target}\0\r"),
        ] {
            let line = line.as_bytes();
            let whole = line.strip_suffix(b"\r").unwrap_or_default();
            let parses = StatusLine::parse(whole).is_some() || RequestLine::parse(whole).is_some();
            let passes = |length| line.get(..length).is_some_and(may_begin_start_line);
            let refused = (0..=line.len()).find(|&length| !passes(length));
            assert_eq!((parses, refused), (true, None), "{:?}", line.get(..12));
        }
    }

    #[test]
    fn the_rest_of_a_long_line_is_not_looked_at() {
        let line = [b"GET /".as_slice(), &[b'x'; MAX_BEGINNING_BYTES - 6], b"\0x"].concat();
        assert!(!may_begin_start_line(&line), "the last byte that is");
        let line = [b"GET /".as_slice(), &[b'x'; MAX_BEGINNING_BYTES - 5], b"\0x"].concat();
        assert!(may_begin_start_line(&line), "the first that is not");
    }

    #[test]
    fn targets() {
        assert_eq!(
            host_of_target(b"GET", b"/x?u=http://y/"),
            (None, b"/x?u=http://y/".as_slice())
        );
        assert_eq!(
            host_of_target(b"GET", b"http://u:p@h:80/x"),
            (Some(b"h:80".as_slice()), b"/x".as_slice())
        );
        assert_eq!(
            host_of_target(b"GET", b"http://h?q"),
            (Some(b"h".as_slice()), b"?q".as_slice())
        );
        assert_eq!(
            host_of_target(b"GET", b"http://h"),
            (Some(b"h".as_slice()), b"/".as_slice())
        );
        assert_eq!(
            host_of_target(b"CONNECT", b"h:443"),
            (Some(b"h:443".as_slice()), b"h:443".as_slice())
        );
        assert_eq!(host_of_target(b"OPTIONS", b"*"), (None, b"*".as_slice()));
    }

    #[test]
    fn ports_are_cut_off() {
        assert_eq!(without_port("example.org:8080"), "example.org");
        assert_eq!(without_port("[2001:db8::1]:80"), "[2001:db8::1]");
        assert_eq!(without_port("[2001:db8::1]"), "[2001:db8::1]");
        assert_eq!(without_port("example.org"), "example.org");
    }

    #[test]
    fn values() {
        assert_eq!(field(b"Host :  a\t"), Some((b"Host".as_slice(), b"a".as_slice())));
        assert_eq!(field(b"no colon"), None);
        assert_eq!(media_type(b"text/html; charset=utf-8"), b"text/html");
        assert!(token_listed(b"gzip, Chunked", b"chunked"));
        assert_eq!(
            (number(b"42, 42"), number(b""), number(b"-1")),
            (Some(42), None, None)
        );
        assert_eq!(number(b"99999999999999999999"), None);
        assert_eq!(
            (chunk_size(b"1F;x=y"), chunk_size(b""), chunk_size(b"xyz")),
            (Some(31), None, None)
        );
    }
}
