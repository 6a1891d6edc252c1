//! The `aws-chunked` encoding: chunks with sizes, perhaps signatures, perhaps trailing headers.
//!
//! Source: "Signature calculations for the Authorization header: transferring payload in multiple chunks" of the S3 API
//! reference. A decoder without I/O: bytes go in, decoded bytes come out as soon as they are there, whatever the size
//! of a chunk. A chunk's signature is checked at its end; whoever uses the bytes must not act on them before
//! [`Decoder::finish`] has returned.

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};
use sha2::{Digest, Sha256};
use terroir_iam::sigv4::{Scope, SigningKey};
use terroir_types::Timestamp;

use super::body::BodyFailure;

/// Longest line of a chunk's size and signature.
const MAX_LINE: usize = 1024;
const MAX_TRAILERS: usize = 16 << 10;
const EMPTY_SHA256: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// Signs each chunk after the one before.
pub(super) struct ChunkSigner {
    key: SigningKey,
    scope: Scope,
    signed_at: Timestamp,
    previous: String,
    hasher: Sha256,
}

impl ChunkSigner {
    /// `seed`: the signature of the request's headers.
    pub(super) fn new(key: SigningKey, scope: Scope, signed_at: Timestamp, seed: String) -> Self {
        Self { key, scope, signed_at, previous: seed, hasher: Sha256::new() }
    }

    fn sign(&self, kind: &str, rest: &str) -> String {
        let date = self.signed_at.to_amz_date();
        self.key.sign(&format!("AWS4-HMAC-SHA256-{kind}\n{date}\n{}\n{}\n{rest}", self.scope, self.previous))
    }

    fn check_chunk(&mut self, signature: &str) -> Result<(), BodyFailure> {
        let hash = hex::encode(std::mem::take(&mut self.hasher).finalize());
        let expected = self.sign("PAYLOAD", &format!("{EMPTY_SHA256}\n{hash}"));
        if !same(&expected, signature) {
            return Err(BodyFailure::ChunkSignature);
        }
        self.previous = expected;
        Ok(())
    }

    fn check_trailers(&self, lines: &str, signature: Option<&str>) -> Result<(), BodyFailure> {
        let expected = self.sign("TRAILER", &hex::encode(Sha256::digest(lines.as_bytes())));
        match signature {
            Some(signature) if same(&expected, signature) => Ok(()),
            _ => Err(BodyFailure::ChunkSignature),
        }
    }
}

/// Compares in a time that does not depend on where the texts differ.
fn same(a: &str, b: &str) -> bool {
    a.len() == b.len() && a.bytes().zip(b.bytes()).fold(0, |acc, (a, b)| acc | (a ^ b)) == 0
}

enum State {
    /// Before the line with a chunk's size.
    Size,
    Data {
        left: u64,
        signature: Option<String>,
    },
    /// Before the line end that follows a chunk's bytes.
    DataEnd {
        signature: Option<String>,
    },
    Trailers,
}

pub(super) struct Decoder {
    state: State,
    buffer: BytesMut,
    signer: Option<ChunkSigner>,
    expects_trailers: bool,
    trailers: BytesMut,
}

impl Decoder {
    /// `signer`: none if chunks are not signed.
    pub(super) fn new(signer: Option<ChunkSigner>, expects_trailers: bool) -> Self {
        Self { state: State::Size, buffer: BytesMut::new(), signer, expects_trailers, trailers: BytesMut::new() }
    }

    /// Takes bytes in; `out` gets what they decode to.
    pub(super) fn feed(&mut self, bytes: Bytes, out: &mut Vec<Bytes>) -> Result<(), BodyFailure> {
        let mut input = bytes;
        while !input.is_empty() {
            match &mut self.state {
                State::Data { left, signature } => {
                    let take = usize::try_from(*left).unwrap_or(usize::MAX).min(input.len());
                    let piece = input.split_to(take);
                    if let Some(signer) = &mut self.signer {
                        signer.hasher.update(&piece);
                    }
                    *left -= take as u64;
                    out.push(piece);
                    if *left == 0 {
                        self.state = State::DataEnd { signature: signature.take() };
                    }
                }
                State::Trailers => {
                    if self.trailers.len() + input.len() > MAX_TRAILERS {
                        return Err(BodyFailure::Malformed("the trailing headers are too large"));
                    }
                    self.trailers.extend_from_slice(&input);
                    input.clear();
                }
                State::Size | State::DataEnd { .. } => {
                    if let Some(line) = self.line(&mut input)? {
                        self.take_line(&line)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// A whole line without its end, once it is there.
    fn line(&mut self, input: &mut Bytes) -> Result<Option<String>, BodyFailure> {
        let end = input.iter().position(|byte| *byte == b'\n');
        let take = end.map_or(input.len(), |end| end + 1);
        if self.buffer.len() + take > MAX_LINE {
            return Err(BodyFailure::Malformed("a chunk's header is too long"));
        }
        self.buffer.extend_from_slice(&input[..take]);
        input.advance(take);
        if end.is_none() {
            return Ok(None);
        }
        let line = self.buffer.split();
        let line = line.strip_suffix(b"\r\n").ok_or(BodyFailure::Malformed("a line does not end with CR LF"))?;
        let text = std::str::from_utf8(line).map_err(|_| BodyFailure::Malformed("a chunk's header is not text"))?;
        Ok(Some(text.to_owned()))
    }

    fn take_line(&mut self, line: &str) -> Result<(), BodyFailure> {
        match std::mem::replace(&mut self.state, State::Size) {
            State::DataEnd { signature } => {
                if !line.is_empty() {
                    return Err(BodyFailure::Malformed("a chunk is longer than its size"));
                }
                self.end_chunk(signature.as_deref())
            }
            _ => self.begin_chunk(line),
        }
    }

    fn begin_chunk(&mut self, line: &str) -> Result<(), BodyFailure> {
        let mut fields = line.split(';');
        let size = fields.next().unwrap_or_default();
        let digits = !size.is_empty() && size.bytes().all(|b| b.is_ascii_hexdigit());
        let size = u64::from_str_radix(size, 16)
            .ok()
            .filter(|_| digits)
            .ok_or(BodyFailure::Malformed("a chunk's size is not a hexadecimal number"))?;
        let signature = fields.find_map(|field| field.trim().strip_prefix("chunk-signature=")).map(str::to_owned);
        if self.signer.is_some() && signature.is_none() {
            return Err(BodyFailure::ChunkSignature);
        }
        if size == 0 {
            self.end_chunk(signature.as_deref())?;
            self.state = State::Trailers;
        } else {
            self.state = State::Data { left: size, signature };
        }
        Ok(())
    }

    fn end_chunk(&mut self, signature: Option<&str>) -> Result<(), BodyFailure> {
        match (&mut self.signer, signature) {
            (Some(signer), Some(signature)) => signer.check_chunk(signature),
            (Some(_), None) => Err(BodyFailure::ChunkSignature),
            (None, _) => Ok(()),
        }
    }

    /// At the end of the body: the trailing headers.
    pub(super) fn finish(&mut self) -> Result<HeaderMap, BodyFailure> {
        if !matches!(self.state, State::Trailers) {
            return Err(BodyFailure::Incomplete);
        }
        let text = std::str::from_utf8(&self.trailers)
            .map_err(|_| BodyFailure::Malformed("the trailing headers are not text"))?;
        let mut lines: Vec<(String, &str)> = Vec::new();
        let mut signature = None;
        for line in text.split('\n').map(|line| line.trim_end_matches('\r')).filter(|line| !line.is_empty()) {
            let (name, value) = line.split_once(':').ok_or(BodyFailure::Malformed("a trailing header has no colon"))?;
            let (name, value) = (name.trim().to_ascii_lowercase(), value.trim());
            if name == "x-amz-trailer-signature" {
                signature = Some(value);
            } else {
                lines.push((name, value));
            }
        }
        lines.sort();
        if let Some(signer) = &self.signer
            && self.expects_trailers
        {
            let canonical: String = lines.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
            signer.check_trailers(&canonical, signature)?;
        }
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            let malformed = BodyFailure::Malformed("a trailing header is not a header");
            let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), value.parse::<HeaderValue>()) else {
                return Err(malformed);
            };
            headers.append(name, value);
        }
        Ok(headers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(text: &[u8], step: usize, trailers: bool) -> Result<(Vec<u8>, HeaderMap), BodyFailure> {
        let mut decoder = Decoder::new(None, trailers);
        let mut out = Vec::new();
        for piece in text.chunks(step) {
            decoder.feed(Bytes::copy_from_slice(piece), &mut out)?;
        }
        let headers = decoder.finish()?;
        Ok((out.concat(), headers))
    }

    #[test]
    fn unsigned_bodies_in_any_pieces() {
        let body = b"5\r\nhello\r\n6;x=y\r\n world\r\n0\r\nx-amz-checksum-crc32:DUoRhQ==\r\n\r\n";
        for step in 1..=body.len() {
            let (bytes, headers) = decode(body, step, true).unwrap();
            assert_eq!(bytes, b"hello world", "step {step}");
            assert_eq!(headers["x-amz-checksum-crc32"], "DUoRhQ==");
        }
    }

    #[test]
    fn what_is_malformed_is_refused() {
        let rows: [(&[u8], &str); 8] = [
            (b"5\r\nhello\r\n", "no last chunk"),
            (b"5\r\nhel", "ends inside a chunk"),
            (b"5\r\nhelloX\r\n0\r\n\r\n", "longer than its size"),
            (b"zz\r\nhello\r\n0\r\n\r\n", "not hexadecimal"),
            (b"+5\r\nhello\r\n0\r\n\r\n", "a sign"),
            (b"\r\nhello\r\n0\r\n\r\n", "no size"),
            (b"5\nhello\n0\n\n", "bare line feeds"),
            (b"0\r\nnot a header\r\n\r\n", "trailer without colon"),
        ];
        for (body, why) in rows {
            assert!(decode(body, 7, true).is_err(), "{why}");
        }
        assert!(decode(&[b'1'; 5000], 100, false).is_err(), "an endless size");
        let mut trailers = b"0\r\n".to_vec();
        trailers.extend(vec![b'a'; 20_000]);
        assert!(decode(&trailers, 1000, true).is_err(), "endless trailers");
    }

    /// The example of the S3 API reference: 66,560 letters a in two chunks.
    #[test]
    fn the_signed_example_of_the_reference() {
        let scope = Scope { date: "20130524".into(), region: "us-east-1".into(), service: "s3".into() };
        let seed = "4f232c4386841ef735655705268965c44a0e4690baa4adea153f7db9fa80a0a9";
        let signatures = [
            "ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648",
            "0055627c9e194cb4542bae2aa5492e3c1575bbb81b612b7d234b86a503ef5497",
            "b6c6ea8a5354eaf15b3cb7646744f4275b71ea724fed81ceb9323e279d449df9",
        ];
        let run = |tamper: bool| {
            let key = SigningKey::derive("wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", &scope);
            let signed_at = Timestamp::parse_amz_date("20130524T000000Z").unwrap();
            let signer = ChunkSigner::new(key, scope.clone(), signed_at, seed.into());
            let mut decoder = Decoder::new(Some(signer), false);
            let mut body = Vec::new();
            for (size, signature) in [65_536, 1024, 0].into_iter().zip(signatures) {
                body.extend(format!("{size:x};chunk-signature={signature}\r\n").bytes());
                body.extend(vec![b'a'; size]);
                body.extend(b"\r\n");
            }
            if tamper {
                body[60_000] = b'b';
            }
            let mut out = Vec::new();
            for piece in body.chunks(1000) {
                decoder.feed(Bytes::copy_from_slice(piece), &mut out)?;
            }
            decoder.finish().map(|_| out.concat().len())
        };
        assert_eq!(run(false).unwrap(), 66_560);
        assert!(matches!(run(true), Err(BodyFailure::ChunkSignature)));
    }
}
