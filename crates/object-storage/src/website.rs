//! Websites in buckets: which object answers an address, and what is redirected where. Pure.
//!
//! Source: "Hosting a static website using Amazon S3" of the S3 user guide and PutBucketWebsite of the API reference.

use percent_encoding::{AsciiSet, CONTROLS, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Deserialize, Serialize};
use terroir_types::Error;

use crate::settings::BucketSetting;

pub const MAX_RULES: usize = 50;

/// What of a visitor's path stands in the path of a redirect as it is.
const KEPT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~').remove(b'/');
/// What no address can have. The rest of what the owner writes stays as it is, so that a redirect may lead to a query or a
/// fragment: `#!/` and `resize?key=` are what single-page sites and AWS's own examples use.
const NEVER: &AsciiSet =
    &CONTROLS.add(b' ').add(b'"').add(b'<').add(b'>').add(b'\\').add(b'^').add(b'`').add(b'{').add(b'|').add(b'}');

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Website {
    /// What a folder shows, for example `index.html`. There unless everything is redirected.
    #[serde(rename = "i", default, skip_serializing_if = "Option::is_none")]
    pub index: Option<String>,
    /// The key of what is shown for errors.
    #[serde(rename = "e", default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Where everything is redirected.
    #[serde(rename = "a", default, skip_serializing_if = "Option::is_none")]
    pub redirect_all: Option<Elsewhere>,
    #[serde(rename = "r", default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<RoutingRule>,
}

impl BucketSetting for Website {
    const NAME: &'static str = "website";
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Elsewhere {
    /// None: where the request came.
    #[serde(rename = "h", default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// `http` or `https`; none: as the request came.
    #[serde(rename = "p", default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
}

/// The first rule whose conditions all hold redirects.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoutingRule {
    /// What the key begins with.
    #[serde(rename = "k", default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// What the answer would be.
    #[serde(rename = "s", default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    #[serde(rename = "e", default)]
    pub elsewhere: Elsewhere,
    #[serde(rename = "t", default)]
    pub target: Target,
    #[serde(rename = "c", default, skip_serializing_if = "Option::is_none")]
    pub code: Option<u16>,
}

/// The key of a redirect.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Target {
    #[default]
    #[serde(rename = "s")]
    Same,
    #[serde(rename = "k")]
    Key(String),
    /// Instead of the condition's prefix.
    #[serde(rename = "p")]
    Prefix(String),
}

/// Where a request came.
#[derive(Debug, Clone, Copy)]
pub struct Arrival<'a> {
    /// With its port.
    pub host: &'a str,
    pub protocol: &'a str,
    /// The path without its first slash, decoded.
    pub key: &'a str,
}

/// An answer that sends the client on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redirection {
    pub code: u16,
    pub location: String,
}

const MOVED: u16 = 301;

impl Website {
    /// # Errors
    /// `InvalidArgument`, `InvalidRequest`, as AWS words them.
    pub fn check(&self) -> Result<(), Error> {
        if let Some(elsewhere) = &self.redirect_all {
            if self.index.is_some() || self.error.is_some() || !self.rules.is_empty() {
                let message = "RedirectAllRequestsTo cannot be provided in conjunction with other Routing Rules.";
                return Err(Error::invalid("InvalidRequest", message));
            }
            return elsewhere.check();
        }
        match &self.index {
            None => {
                let message = "A value for IndexDocument Suffix must be provided if RedirectAllRequestsTo is empty";
                return Err(Error::invalid("InvalidArgument", message));
            }
            Some(index) if index.is_empty() || index.contains('/') => {
                return Err(Error::invalid("InvalidArgument", "The IndexDocument Suffix is not well formed"));
            }
            Some(_) => {}
        }
        if self.error.as_deref() == Some("") {
            return Err(Error::invalid("InvalidArgument", "The ErrorDocument Key is not well formed"));
        }
        if self.rules.len() > MAX_RULES {
            let message = format!(
                "{} routing rules provided, the number of routing rules in a website configuration is limited to {MAX_RULES}.",
                self.rules.len()
            );
            return Err(Error::invalid("InvalidRequest", message));
        }
        self.rules.iter().try_for_each(RoutingRule::check)
    }

    /// What is decided before anything is looked up.
    pub fn redirect_first(&self, arrival: Arrival<'_>) -> Option<Redirection> {
        match &self.redirect_all {
            Some(elsewhere) => Some(elsewhere.redirect(arrival, "", arrival.key, MOVED)),
            None => self.redirect(arrival, None),
        }
    }

    /// What is decided once the answer would have an error's status.
    pub fn redirect_error(&self, arrival: Arrival<'_>, status: u16) -> Option<Redirection> {
        self.redirect(arrival, Some(status))
    }

    fn redirect(&self, arrival: Arrival<'_>, status: Option<u16>) -> Option<Redirection> {
        let holds = |rule: &&RoutingRule| {
            rule.status == status && rule.prefix.as_ref().is_none_or(|prefix| arrival.key.starts_with(prefix.as_str()))
        };
        self.rules.iter().find(holds).map(|rule| rule.redirect(arrival))
    }

    /// The object that answers a key: of a folder, its index.
    pub fn object(&self, key: &str) -> String {
        if key.is_empty() || key.ends_with('/') { self.index_of(key) } else { key.to_owned() }
    }

    /// The index of a folder, whose name ends with a slash.
    pub fn index_of(&self, folder: &str) -> String {
        format!("{folder}{}", self.index.as_deref().unwrap_or_default())
    }
}

impl Elsewhere {
    fn check(&self) -> Result<(), Error> {
        if !matches!(self.protocol.as_deref(), None | Some("http" | "https")) {
            let message = "Invalid protocol, protocol can be http or https. If not defined the protocol will be selected automatically.";
            return Err(Error::invalid("InvalidRequest", message));
        }
        // It stands in a header of the answer.
        let is_host = |host: &String| !host.is_empty() && host.bytes().all(|b| b.is_ascii_graphic() && b != b'/');
        if !self.host.as_ref().is_none_or(is_host) {
            return Err(Error::invalid("InvalidRequest", "The host name of a redirect is not valid."));
        }
        Ok(())
    }

    /// `written`: by the owner; `rest`: behind it, from the visitor's path.
    fn redirect(&self, arrival: Arrival<'_>, written: &str, rest: &str, code: u16) -> Redirection {
        let protocol = self.protocol.as_deref().unwrap_or(arrival.protocol);
        let host = self.host.as_deref().unwrap_or(arrival.host);
        let (written, rest) = (utf8_percent_encode(written, NEVER), utf8_percent_encode(rest, KEPT));
        Redirection { code, location: format!("{protocol}://{host}/{written}{rest}") }
    }
}

impl RoutingRule {
    fn check(&self) -> Result<(), Error> {
        if let Some(status) = self.status.filter(|status| !(400..600).contains(status)) {
            let message = format!("The provided HTTP error code ({status}) is not valid. Valid codes are 4XX or 5XX.");
            return Err(Error::invalid("InvalidRequest", message));
        }
        if let Some(code) = self.code.filter(|code| !(301..400).contains(code)) {
            let message =
                format!("The provided HTTP redirect code ({code}) is not valid. Valid codes are 3XX except 300.");
            return Err(Error::invalid("InvalidRequest", message));
        }
        if self.elsewhere == Elsewhere::default() && self.target == Target::Same {
            // It would come back here for ever.
            return Err(Error::invalid("InvalidRequest", "A redirect must say where to."));
        }
        self.elsewhere.check()
    }

    fn redirect(&self, arrival: Arrival<'_>) -> Redirection {
        let (written, rest) = match &self.target {
            Target::Same => ("", arrival.key),
            Target::Key(key) => (key.as_str(), ""),
            Target::Prefix(new) => {
                let old = self.prefix.as_deref().unwrap_or_default();
                (new.as_str(), arrival.key.strip_prefix(old).unwrap_or(arrival.key))
            }
        };
        self.elsewhere.redirect(arrival, written, rest, self.code.unwrap_or(MOVED))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(prefix: Option<&str>, status: Option<u16>) -> RoutingRule {
        RoutingRule { prefix: prefix.map(str::to_owned), status, ..RoutingRule::default() }
    }

    #[test]
    fn what_is_redirected_where() {
        let elsewhere = |host: &str| Elsewhere { host: Some(host.to_owned()), protocol: Some("https".to_owned()) };
        let site = Website {
            index: Some("index.html".to_owned()),
            rules: vec![
                RoutingRule { target: Target::Prefix("new/".into()), ..rule(Some("old/"), None) },
                RoutingRule { target: Target::Key("moved.html".into()), code: Some(307), ..rule(Some("one"), None) },
                RoutingRule { elsewhere: elsewhere("far.example"), ..rule(Some("far/"), Some(404)) },
                RoutingRule { target: Target::Prefix("q?key=".into()), ..rule(None, Some(404)) },
            ],
            ..Website::default()
        };
        site.check().unwrap();
        let first: [(&str, Option<(u16, &str)>); 5] = [
            ("old/a b.html", Some((301, "http://b.website.test:9000/new/a%20b.html"))),
            ("old", None),
            ("one/two", Some((307, "http://b.website.test:9000/moved.html"))),
            ("far/x", None),
            ("", None),
        ];
        let arrival = |key: &'static str| Arrival { host: "b.website.test:9000", protocol: "http", key };
        let told = |redirection: Option<Redirection>| redirection.map(|r| (r.code, r.location));
        for (key, expected) in first {
            let expected = expected.map(|(code, location)| (code, location.to_owned()));
            assert_eq!(told(site.redirect_first(arrival(key))), expected, "{key}");
        }
        let errors = [
            ("far/x", 404, Some((301, "https://far.example/far/x"))),
            ("far/x", 403, None),
            ("old/x?y=z", 404, Some((301, "http://b.website.test:9000/q?key=old/x%3Fy%3Dz"))),
        ];
        for (key, status, expected) in errors {
            let expected = expected.map(|(code, location): (u16, &str)| (code, location.to_owned()));
            assert_eq!(told(site.redirect_error(arrival(key), status)), expected, "{key} {status}");
        }
        let all = Website { redirect_all: Some(elsewhere("x.example")), ..Website::default() };
        all.check().unwrap();
        assert_eq!(told(all.redirect_first(arrival("a/b"))), Some((301, "https://x.example/a/b".to_owned())));
        assert_eq!([site.object(""), site.object("a/"), site.object("a")], ["index.html", "a/index.html", "a"]);
    }

    #[test]
    fn what_is_no_website() {
        let with = |change: &dyn Fn(&mut Website)| {
            let mut site = Website { index: Some("i".into()), ..Website::default() };
            change(&mut site);
            site.check().map_err(|error| error.code().to_owned())
        };
        let bad = |rule: RoutingRule| with(&|site| site.rules = vec![rule.clone()]);
        let redirects = || RoutingRule { target: Target::Key("k".into()), ..RoutingRule::default() };
        assert!(with(&|_| {}).is_ok() && bad(redirects()).is_ok());
        let argument = Err("InvalidArgument".to_owned());
        let request = Err("InvalidRequest".to_owned());
        assert_eq!(with(&|site| site.index = None), argument);
        assert_eq!(with(&|site| site.index = Some("a/b".into())), argument);
        assert_eq!(with(&|site| site.index = Some(String::new())), argument);
        assert_eq!(with(&|site| site.error = Some(String::new())), argument);
        assert_eq!(with(&|site| site.redirect_all = Some(Elsewhere::default())), request);
        assert_eq!(with(&|site| site.rules = vec![redirects(); 51]), request);
        assert_eq!(bad(RoutingRule::default()), request);
        assert_eq!(bad(RoutingRule { status: Some(200), ..redirects() }), request);
        assert_eq!(bad(RoutingRule { code: Some(300), ..redirects() }), request);
        assert_eq!(bad(RoutingRule { code: Some(200), ..redirects() }), request);
        let elsewhere = |host: Option<&str>, protocol: Option<&str>| RoutingRule {
            elsewhere: Elsewhere { host: host.map(str::to_owned), protocol: protocol.map(str::to_owned) },
            ..RoutingRule::default()
        };
        assert_eq!(bad(elsewhere(None, Some("ftp"))), request);
        assert_eq!(bad(elsewhere(Some("a\r\nx: y"), None)), request);
        assert!(bad(elsewhere(Some("a.example"), None)).is_ok());
    }
}
