//! Reading `multipart/form-data` (RFC 7578) piece by piece.
//!
//! Own code, because what there is reads ahead as long as the client sends, and bounds no headers: here at most one piece
//! of the body and the headers of one part are held.

use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt};
use memchr::memmem::Finder;

use crate::backend::BoxError;

/// The longest headers of one part.
const MAX_HEADERS: usize = 8 << 10;
const MAX_BOUNDARY: usize = 70;

/// The body is not a form.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct FormError(&'static str);

/// What stands in front of a part.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Part {
    pub name: String,
    pub filename: Option<String>,
}

pub(super) struct FormReader<S> {
    body: S,
    buffer: BytesMut,
    /// Line end, two dashes, boundary.
    delimiter: Finder<'static>,
    /// Whether a part's data is being read.
    in_part: bool,
}

/// The boundary in a `Content-Type`.
pub(super) fn boundary(content_type: &str) -> Option<&str> {
    let parameters = content_type.split(';').skip(1);
    let mut values = parameters.filter_map(|parameter| {
        let (name, value) = parameter.trim().split_once('=')?;
        name.trim().eq_ignore_ascii_case("boundary").then_some(value.trim())
    });
    let value = values.next()?;
    let value = value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value);
    (!value.is_empty() && value.len() <= MAX_BOUNDARY).then_some(value)
}

impl<S> FormReader<S>
where
    S: Stream<Item = Result<Bytes, BoxError>> + Unpin,
{
    pub(super) fn new(body: S, boundary: &str) -> Self {
        let delimiter = Finder::new(format!("\r\n--{boundary}").as_bytes()).into_owned();
        // The first boundary has no line before it.
        Self { body, buffer: BytesMut::from(&b"\r\n"[..]), delimiter, in_part: true }
    }

    /// The next part, if there is one. What was not read of the one before is skipped.
    pub(super) async fn next_part(&mut self) -> Result<Option<Part>, FormError> {
        while self.data().await?.is_some() {}
        // Behind a boundary: the end, or a line end, perhaps after blanks.
        while self.buffer.len() < 2 {
            self.fill().await?;
        }
        if self.buffer.starts_with(b"--") {
            return Ok(None);
        }
        let end = loop {
            if let Some(end) = memchr::memmem::find(&self.buffer, b"\r\n\r\n") {
                break end;
            }
            if self.buffer.len() > MAX_HEADERS {
                return Err(FormError("the headers of a part are too long"));
            }
            self.fill().await?;
        };
        let headers = self.buffer.split_to(end + 4);
        self.in_part = true;
        part(std::str::from_utf8(&headers).map_err(|_| FormError("a header is no text"))?).map(Some)
    }

    /// The next bytes of the part, none at its end.
    pub(super) async fn data(&mut self) -> Result<Option<Bytes>, FormError> {
        while self.in_part {
            if let Some(at) = self.delimiter.find(&self.buffer) {
                let data = self.buffer.split_to(at).freeze();
                let _ = self.buffer.split_to(self.delimiter.needle().len());
                self.in_part = false;
                return Ok(Some(data).filter(|data| !data.is_empty()));
            }
            // The beginning of a boundary may stand at the end.
            let sure = (self.buffer.len() + 1).saturating_sub(self.delimiter.needle().len());
            if sure > 0 {
                return Ok(Some(self.buffer.split_to(sure).freeze()));
            }
            self.fill().await?;
        }
        Ok(None)
    }

    /// The rest of the part, piece by piece.
    pub(super) fn into_data(self) -> impl Stream<Item = Result<Bytes, FormError>> {
        futures::stream::unfold(Some(self), |reader| async {
            let mut reader = reader?;
            match reader.data().await {
                Ok(Some(data)) => Some((Ok(data), Some(reader))),
                Ok(None) => None,
                Err(error) => Some((Err(error), None)),
            }
        })
    }

    async fn fill(&mut self) -> Result<(), FormError> {
        match self.body.next().await {
            Some(Ok(piece)) => {
                self.buffer.extend_from_slice(&piece);
                Ok(())
            }
            Some(Err(_)) => Err(FormError("the body could not be read")),
            None => Err(FormError("the form ends early")),
        }
    }
}

fn part(headers: &str) -> Result<Part, FormError> {
    for line in headers.split("\r\n") {
        let Some((name, value)) = line.split_once(':') else { continue };
        if !name.trim().eq_ignore_ascii_case("content-disposition") {
            continue;
        }
        let mut part = Part::default();
        let mut named = false;
        for (name, value) in parameters(value) {
            match name.to_ascii_lowercase().as_str() {
                "name" => (part.name, named) = (value, true),
                "filename" => part.filename = Some(value),
                _ => {}
            }
        }
        if named {
            return Ok(part);
        }
    }
    Err(FormError("a part has no name"))
}

/// `name="value"` after each semicolon; a semicolon may stand inside the quotes.
fn parameters(disposition: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut rest = disposition;
    while let Some((_, parameter)) = rest.split_once(';') {
        let Some((name, value)) = parameter.split_once('=') else { break };
        let value = value.trim_start();
        let (value, behind) = match value.strip_prefix('"') {
            Some(quoted) => unquote(quoted),
            None => {
                let end = value.find(';').unwrap_or(value.len());
                (value[..end].trim().to_owned(), &value[end..])
            }
        };
        found.push((name.trim().to_owned(), value));
        rest = behind;
    }
    found
}

/// Text up to the closing quote, and what is behind it. Browsers write a quote in a name as `%22` or `\"`.
fn unquote(quoted: &str) -> (String, &str) {
    let mut text = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return (text, &quoted[at + 1..]),
            '\\' if quoted[at + 1..].starts_with('"') => {
                chars.next();
                text.push('"');
            }
            other => text.push(other),
        }
    }
    (text, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &[u8] =
        b"preamble\r\n--x-y\r\nContent-Disposition: form-data; name=\"key\"\r\n\r\na\r\n--x-\r\n--x-y  \r\n\
        content-disposition: form-data; name=\"empty\"\r\n\r\n\r\n--x-y\r\n\
        Content-Disposition: form-data; filename=\"a;\\\"b\\\".txt\"; name=\"file\"\r\nContent-Type: text/plain\r\n\r\n\
        \r\n--x\r\nbytes\0\r\n--x-y--\r\nepilogue";

    fn reader(body: &[u8], step: usize) -> FormReader<impl Stream<Item = Result<Bytes, BoxError>> + Unpin> {
        let pieces: Vec<_> = body.chunks(step).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
        FormReader::new(futures::stream::iter(pieces), "x-y")
    }

    #[tokio::test]
    async fn parts_in_any_pieces() {
        for step in 1..=BODY.len() {
            let mut form = reader(BODY, step);
            let mut parts = Vec::new();
            while let Some(part) = form.next_part().await.unwrap() {
                let mut data = Vec::new();
                while let Some(piece) = form.data().await.unwrap() {
                    data.extend_from_slice(&piece);
                }
                parts.push((part.name, part.filename, data));
            }
            let expected = [
                ("key".to_owned(), None, b"a\r\n--x-".to_vec()),
                ("empty".to_owned(), None, Vec::new()),
                ("file".to_owned(), Some("a;\"b\".txt".to_owned()), b"\r\n--x\r\nbytes\0".to_vec()),
            ];
            assert_eq!(parts, expected, "step {step}");
        }
    }

    #[tokio::test]
    async fn parts_are_skipped_and_streamed() {
        let mut form = reader(BODY, 5);
        form.next_part().await.unwrap();
        form.next_part().await.unwrap();
        assert_eq!(form.next_part().await.unwrap().unwrap().name, "file");
        let pieces: Vec<_> = form.into_data().map(Result::unwrap).collect().await;
        assert_eq!(pieces.concat(), b"\r\n--x\r\nbytes\0");
    }

    #[tokio::test]
    async fn what_is_no_form() {
        let long = [&b"--x-y\r\n"[..], &vec![b'a'; 20_000]].concat();
        let rows: [(&[u8], &str); 6] = [
            (b"", "nothing"),
            (b"--other\r\n", "another boundary"),
            (b"--x-y\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\nvalue", "no end"),
            (b"--x-y\r\nContent-Type: text/plain\r\n\r\nvalue\r\n--x-y--", "no name"),
            (b"--x-y\r\nContent-Disposition: form-data; name=\"\xff\"\r\n\r\nvalue\r\n--x-y--", "no text"),
            (&long, "endless headers"),
        ];
        for (body, why) in rows {
            let mut form = reader(body, 3);
            let read = async {
                while form.next_part().await?.is_some() {}
                Ok::<_, FormError>(())
            };
            assert!(read.await.is_err(), "{why}");
        }
    }

    #[test]
    fn boundaries() {
        for (content_type, expected) in [
            ("multipart/form-data; boundary=abc", Some("abc")),
            ("multipart/form-data; charset=utf-8; Boundary=\"a b\"", Some("a b")),
            ("multipart/form-data", None),
            ("multipart/form-data; boundary=", None),
        ] {
            assert_eq!(boundary(content_type), expected, "{content_type}");
        }
        assert_eq!(boundary(&format!("multipart/form-data; boundary={}", "x".repeat(71))), None);
    }
}
