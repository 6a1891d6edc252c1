//! Text with wildcards (`*`, `?`) and policy variables (`${aws:username}`).

use super::Keys;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Literal(char),
    /// `?`
    One,
    /// `*`
    Any,
    /// `${name}` or `${name, 'default'}`; the name is in lower case.
    Variable {
        name: String,
        default: Option<String>,
    },
}

/// What the characters `*`, `?` and `${` mean in a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Syntax {
    pub wildcards: bool,
    /// Since version 2012-10-17 of the policy language.
    pub variables: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pattern(Vec<Piece>);

/// A character of a pattern whose variables are filled in.
#[derive(Clone, Copy)]
enum Glyph {
    Literal(char),
    One,
    Any,
}

impl Pattern {
    /// `Err` with what is wrong: an unfinished or unknown form of `${`.
    pub(super) fn parse(text: &str, syntax: Syntax) -> Result<Self, String> {
        let mut pieces = Vec::with_capacity(text.len());
        let mut rest = text;
        while let Some(c) = rest.chars().next() {
            if syntax.variables && rest.starts_with("${") {
                let end = rest.find('}').ok_or_else(|| format!("a policy variable in '{text}' has no end"))?;
                pieces.push(variable(&rest[2..end])?);
                rest = &rest[end + 1..];
                continue;
            }
            pieces.push(match c {
                '*' if syntax.wildcards => Piece::Any,
                '?' if syntax.wildcards => Piece::One,
                other => Piece::Literal(other),
            });
            rest = &rest[c.len_utf8()..];
        }
        Ok(Self(pieces))
    }

    /// Whether the text is this pattern's and nothing else's.
    pub(super) fn is_fixed(&self) -> bool {
        self.0.iter().all(|piece| matches!(piece, Piece::Literal(_)))
    }

    /// Names of the condition keys that stand in it as variables, in lower case.
    pub(super) fn variables(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|piece| match piece {
            Piece::Variable { name, .. } => Some(name.as_str()),
            Piece::Literal(_) | Piece::One | Piece::Any => None,
        })
    }

    /// The pattern cut at its first `limit - 1` literal characters `separator`.
    pub(super) fn split(&self, separator: char, limit: usize) -> Vec<Self> {
        self.0.splitn(limit, |piece| *piece == Piece::Literal(separator)).map(|part| Self(part.to_vec())).collect()
    }

    /// Whether the text is of this pattern. A variable that the request does not have matches nothing.
    pub(super) fn matches(&self, text: &str, keys: &Keys, fold_case: bool) -> bool {
        let fold = |c: char| if fold_case { c.to_ascii_lowercase() } else { c };
        let Some(glyphs) = self.glyphs(keys, fold) else { return false };
        let text: Vec<char> = text.chars().map(fold).collect();
        glob(&glyphs, &text)
    }

    fn glyphs(&self, keys: &Keys, fold: impl Fn(char) -> char) -> Option<Vec<Glyph>> {
        let mut glyphs = Vec::with_capacity(self.0.len());
        for piece in &self.0 {
            match piece {
                Piece::Literal(c) => glyphs.push(Glyph::Literal(fold(*c))),
                Piece::One => glyphs.push(Glyph::One),
                Piece::Any => glyphs.push(Glyph::Any),
                Piece::Variable { name, default } => {
                    // A key with several values has no one text to stand here.
                    let value = match keys.get_lower(name) {
                        Some([value]) => value,
                        _ => default.as_ref()?,
                    };
                    glyphs.extend(value.chars().map(|c| Glyph::Literal(fold(c))));
                }
            }
        }
        Some(glyphs)
    }
}

fn variable(inner: &str) -> Result<Piece, String> {
    if let "*" | "?" | "$" = inner {
        return Ok(Piece::Literal(inner.chars().next().unwrap_or('$')));
    }
    let (name, default) = match inner.split_once(',') {
        Some((name, default)) => (name.trim(), Some(default.trim())),
        None => (inner.trim(), None),
    };
    let well_formed = name.split_once(':').is_some_and(|(vendor, key)| !vendor.is_empty() && !key.is_empty());
    if !well_formed {
        return Err(format!("'${{{inner}}}' is not a policy variable"));
    }
    let default = match default {
        None => None,
        Some(quoted) => Some(
            quoted
                .strip_prefix('\'')
                .and_then(|text| text.strip_suffix('\''))
                .ok_or_else(|| format!("the default of '${{{inner}}}' must stand in single quotes"))?
                .to_owned(),
        ),
    };
    Ok(Piece::Variable { name: name.to_ascii_lowercase(), default })
}

/// Greedy matching that goes back only to the last `*`: time is at most the product of both lengths.
fn glob(pattern: &[Glyph], text: &[char]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut last_any: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(Glyph::Any) => {
                last_any = Some((p, t));
                p += 1;
            }
            Some(Glyph::One) => (p, t) = (p + 1, t + 1),
            Some(Glyph::Literal(c)) if *c == text[t] => (p, t) = (p + 1, t + 1),
            _ => match last_any {
                Some((any, from)) => {
                    last_any = Some((any, from + 1));
                    (p, t) = (any + 1, from + 1);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|glyph| matches!(glyph, Glyph::Any))
}

/// An ARN with wildcards. Its first five parts match part by part, so that `*` in one does not reach into the next;
/// a pattern with fewer parts (`*`, `arn:aws:s3*`) is matched against the whole text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ArnPattern {
    parts: Vec<Pattern>,
    /// As it was written.
    text: String,
}

impl ArnPattern {
    pub(super) fn parse(text: &str, syntax: Syntax) -> Result<Self, String> {
        let whole = Pattern::parse(text, syntax)?;
        let parts = whole.split(':', 6);
        let parts = if parts.len() == 6 { parts } else { vec![whole] };
        Ok(Self { parts, text: text.to_owned() })
    }

    /// Whether it can match ARNs of one account, or of one bucket, only.
    pub(super) fn names_an_account(&self) -> bool {
        match self.parts.as_slice() {
            [_, _, service, _, account, resource] => {
                service.is_fixed() && account.is_fixed() && (!account.0.is_empty() || resource.is_fixed())
            }
            _ => false,
        }
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// As [`Pattern::variables`].
    pub(super) fn variables(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().flat_map(Pattern::variables)
    }

    pub(super) fn matches(&self, arn: &str, keys: &Keys) -> bool {
        if let [whole] = self.parts.as_slice() {
            return whole.matches(arn, keys, false);
        }
        let parts: Vec<&str> = arn.splitn(6, ':').collect();
        parts.len() == self.parts.len()
            && self.parts.iter().zip(parts).all(|(pattern, part)| pattern.matches(part, keys, false))
    }
}
