use std::collections::BTreeSet;
use terroir_resources::Tags;
use terroir_types::Error;

/// AWS's `Filters`: values of one filter are alternatives, filters all have to match; `*` and `?` are wildcards, `\`
/// takes the next character as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filters(Vec<Filter>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Filter {
    name: String,
    values: BTreeSet<String>,
}

const MAX_FILTERS: usize = 50;
const MAX_VALUES: usize = 200;

impl Filters {
    /// `allowed` names the filters that the action knows; `tag` among them stands for `tag:KEY` and `tag-key`.
    ///
    /// Errors: `InvalidParameterValue` for an unknown name, a filter without values, or too many of either.
    pub fn parse<'a>(
        filters: impl IntoIterator<Item = (Option<&'a str>, &'a [String])>,
        allowed: &[&str],
    ) -> Result<Self, Error> {
        let mut parsed: Vec<Filter> = Vec::new();
        for (name, values) in filters {
            let name = name.unwrap_or_default();
            let is_tag = name == "tag-key" || name.strip_prefix("tag:").is_some_and(|key| !key.is_empty());
            if !(allowed.contains(&name) && name != "tag" || is_tag && allowed.contains(&"tag")) {
                return Err(Error::invalid("InvalidParameterValue", format!("The filter '{name}' is invalid")));
            }
            if values.is_empty() {
                let message = format!("The filter '{name}' must have at least one value");
                return Err(Error::invalid("InvalidParameterValue", message));
            }
            parsed.push(Filter { name: name.to_owned(), values: values.iter().cloned().collect() });
        }
        if parsed.len() > MAX_FILTERS || parsed.iter().map(|f| f.values.len()).sum::<usize>() > MAX_VALUES {
            let message = format!("At most {MAX_FILTERS} filters with {MAX_VALUES} values in all are allowed");
            return Err(Error::new(terroir_types::ErrorClass::Invalid, "FilterLimitExceeded", message));
        }
        Ok(Self(parsed))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// `field` gives what the item has under a filter's name: none, one or several values.
    pub fn matches(&self, tags: &Tags, field: impl Fn(&str) -> Vec<String>) -> bool {
        self.0.iter().all(|filter| {
            let has: Vec<String> = match filter.name.strip_prefix("tag:") {
                Some(key) => tags.get(key).cloned().into_iter().collect(),
                None if filter.name == "tag-key" => tags.keys().cloned().collect(),
                None => field(&filter.name),
            };
            has.iter().any(|value| filter.values.iter().any(|pattern| glob_matches(pattern, value)))
        })
    }

    /// The only value of a filter given once with one plain value: lets a caller look up instead of scan.
    pub fn exact(&self, name: &str) -> Option<&str> {
        let filter = self.0.iter().find(|filter| filter.name == name)?;
        let only = filter.values.first().filter(|_| filter.values.len() == 1)?;
        (!only.contains(['*', '?', '\\'])).then_some(only.as_str())
    }

    /// The same text for the same filters, in whatever order they were given.
    pub fn canonical(&self) -> String {
        let mut parts: Vec<String> = self.0.iter().map(|f| format!("{:?}={:?}", f.name, f.values)).collect();
        parts.sort();
        parts.join("&")
    }
}

/// Whether `text` fits `pattern`, in time linear in both but for backtracking over one `*`.
pub fn glob_matches(pattern: &str, text: &str) -> bool {
    let pattern = compile(pattern);
    let text: Vec<char> = text.chars().collect();
    let (mut p, mut t) = (0, 0);
    let mut retry: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(Glob::Any) => {
                retry = Some((p, t));
                p += 1;
            }
            Some(Glob::One) => (p, t) = (p + 1, t + 1),
            Some(Glob::Char(c)) if *c == text[t] => (p, t) = (p + 1, t + 1),
            _ => {
                let Some((star, from)) = retry else { return false };
                retry = Some((star, from + 1));
                (p, t) = (star + 1, from + 1);
            }
        }
    }
    pattern[p..].iter().all(|glob| matches!(glob, Glob::Any))
}

enum Glob {
    Any,
    One,
    Char(char),
}

fn compile(pattern: &str) -> Vec<Glob> {
    let mut out = Vec::new();
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        out.push(match c {
            '*' => Glob::Any,
            '?' => Glob::One,
            '\\' => Glob::Char(chars.next().unwrap_or('\\')),
            c => Glob::Char(c),
        });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filters(list: &[(&str, &[&str])]) -> Result<Filters, Error> {
        let owned: Vec<(String, Vec<String>)> = list
            .iter()
            .map(|(name, values)| ((*name).to_owned(), values.iter().map(|v| (*v).to_owned()).collect()))
            .collect();
        Filters::parse(owned.iter().map(|(n, v)| (Some(n.as_str()), v.as_slice())), &["vpc-id", "state", "tag"])
    }

    #[test]
    fn wildcards() {
        for (pattern, text, expected) in [
            ("", "", true),
            ("*", "", true),
            ("a*c", "abbbc", true),
            ("a*c", "abbbd", false),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("*.*", "a.b", true),
            ("a\\*", "a*", true),
            ("a\\*", "ab", false),
            ("**a**b", "xxaxxb", true),
            ("é?", "éà", true),
        ] {
            assert_eq!(glob_matches(pattern, text), expected, "{pattern} {text}");
        }
        let hostile = "*a".repeat(40);
        assert!(!glob_matches(&hostile, &"a".repeat(2000).replace('a', "b")));
    }

    #[test]
    fn filters_are_checked_and_applied() {
        for bad in [
            filters(&[("nonsense", &["x"])]),
            filters(&[("tag", &["x"])]),
            filters(&[("tag:", &["x"])]),
            filters(&[("state", &[])]),
        ] {
            assert_eq!(bad.unwrap_err().code(), "InvalidParameterValue");
        }
        let tags = Tags::from([("team".to_owned(), "blue".to_owned())]);
        let field = |name: &str| if name == "state" { vec!["running".to_owned()] } else { Vec::new() };
        for (list, expected) in [
            (vec![("state", &["stopped", "run*"][..])], true),
            (vec![("state", &["run*"][..]), ("tag:team", &["red"][..])], false),
            (vec![("tag:team", &["b*"][..]), ("tag-key", &["team"][..])], true),
            (vec![("vpc-id", &["*"][..])], false),
        ] {
            assert_eq!(filters(&list).unwrap().matches(&tags, field), expected, "{list:?}");
        }
        let (one, two) = (
            filters(&[("state", &["a", "b"]), ("vpc-id", &["c"])]),
            filters(&[("vpc-id", &["c"]), ("state", &["b", "a"])]),
        );
        assert_eq!(one.unwrap().canonical(), two.unwrap().canonical());
    }
}
