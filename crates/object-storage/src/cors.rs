//! Cross-origin rules of a bucket: which pages of other sites may read it from a browser. Pure.
//!
//! Source: "Elements of a CORS configuration" of the S3 user guide, and the Fetch standard for what a browser asks.

use serde::{Deserialize, Serialize};

use crate::settings::BucketSetting;

pub const MAX_RULES: usize = 100;
pub const METHODS: [&str; 5] = ["GET", "PUT", "HEAD", "POST", "DELETE"];

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cors {
    #[serde(rename = "r")]
    pub rules: Vec<CorsRule>,
}

impl BucketSetting for Cors {
    const NAME: &'static str = "cors";
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CorsRule {
    #[serde(rename = "i", default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// With at most one `*` each.
    #[serde(rename = "o")]
    pub origins: Vec<String>,
    #[serde(rename = "m")]
    pub methods: Vec<String>,
    /// Headers that a page may send; with at most one `*` each.
    #[serde(rename = "h", default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<String>,
    /// Headers that a page may read.
    #[serde(rename = "e", default, skip_serializing_if = "Vec::is_empty")]
    pub exposed: Vec<String>,
    /// How long a browser may remember the answer.
    #[serde(rename = "a", default, skip_serializing_if = "Option::is_none")]
    pub max_age_seconds: Option<i32>,
}

/// What a browser says of a request to another site.
#[derive(Debug, Clone, Copy)]
pub struct CrossOrigin<'a> {
    pub origin: &'a str,
    pub method: &'a str,
    /// `Access-Control-Request-Headers`: separated by commas.
    pub headers: Option<&'a str>,
}

impl CrossOrigin<'_> {
    pub fn header_names(&self) -> impl Iterator<Item = String> {
        let names = self.headers.unwrap_or_default().split(',');
        names.map(|name| name.trim().to_ascii_lowercase()).filter(|name| !name.is_empty())
    }
}

impl Cors {
    /// The first rule that allows the request.
    pub fn find(&self, request: CrossOrigin<'_>) -> Option<&CorsRule> {
        self.rules.iter().find(|rule| rule.allows(request))
    }
}

impl CorsRule {
    fn allows(&self, request: CrossOrigin<'_>) -> bool {
        let known = |name: &str| self.headers.iter().any(|pattern| fits(&pattern.to_ascii_lowercase(), name));
        self.origins.iter().any(|pattern| fits(pattern, request.origin))
            && self.methods.iter().any(|method| method == request.method)
            && request.header_names().all(|name| known(&name))
    }

    /// Whether the rule names every origin, so that the answer is the same for all.
    pub fn allows_every_origin(&self) -> bool {
        self.origins.iter().any(|pattern| pattern == "*")
    }
}

/// Whether the text is of a pattern with at most one `*`.
fn fits(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((start, end)) => text.len() >= start.len() + end.len() && text.starts_with(start) && text.ends_with(end),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_rule_allows_what() {
        let strings = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let rule = |origins: &[&str], methods: &[&str], headers: &[&str]| CorsRule {
            origins: strings(origins),
            methods: strings(methods),
            headers: strings(headers),
            ..CorsRule::default()
        };
        let cors = Cors {
            rules: vec![
                rule(&["https://a.example", "http://*.b.example"], &["GET"], &[]),
                rule(&["http://*.b.example"], &["PUT", "POST"], &["X-Amz-*", "content-type"]),
                rule(&["*"], &["HEAD"], &["*"]),
            ],
        };
        let rows: &[(&str, &str, Option<&str>, Option<usize>)] = &[
            ("https://a.example", "GET", None, Some(0)),
            ("https://a.example", "GET", Some(""), Some(0)),
            ("https://A.example", "GET", None, None),
            ("https://a.example", "GET", Some("x-amz-date"), None),
            ("https://a.example", "PUT", None, None),
            ("http://x.b.example", "GET", None, Some(0)),
            ("http://.b.example", "GET", None, Some(0)),
            ("http://b.example", "GET", None, None),
            ("http://x.b.example", "PUT", Some("Content-Type, x-amz-date"), Some(1)),
            ("http://x.b.example", "PUT", Some("content-type,authorization"), None),
            ("null", "HEAD", Some("anything"), Some(2)),
            ("null", "DELETE", None, None),
        ];
        for (origin, method, headers, expected) in rows {
            let found = cors.find(CrossOrigin { origin, method, headers: *headers });
            let expected = expected.map(|index| &cors.rules[index]);
            assert_eq!(found, expected, "{method} from {origin} with {headers:?}");
        }
        assert!(cors.rules[2].allows_every_origin() && !cors.rules[0].allows_every_origin());
        assert!(!fits("ab*ba", "aba"), "start and end do not share letters");
    }
}
