use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use terroir_aws_model::PageRequest;
use terroir_types::Error;

use crate::Context;

/// Least and greatest `MaxResults` that an action takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    pub least: i32,
    pub greatest: i32,
}

impl Bounds {
    /// What most EC2 actions take.
    pub const EC2: Self = Self { least: 5, greatest: 1000 };
}

const MAC_BYTES: usize = 16;

/// Cuts one page out of `items`, which come in ascending order of their keys and start anywhere.
///
/// The token is the last key of the page under a MAC over (account, action, `scope`), so that it continues in the right
/// place whatever was added or removed in between, and serves nobody else. `scope` is the canonical text of the ids and
/// filters. Without `MaxResults` everything comes in one page.
///
/// Errors: `InvalidParameterValue` for `MaxResults` out of bounds, `InvalidNextToken` for a token that is not ours.
pub fn paginate<T>(
    cx: &Context<'_>,
    action: &str,
    scope: &str,
    page: PageRequest<'_>,
    bounds: Bounds,
    items: impl Iterator<Item = (String, T)>,
) -> Result<(Vec<T>, Option<String>), Error> {
    let limit = match page.max_results {
        None => usize::MAX,
        Some(n) if n < bounds.least || n > bounds.greatest => {
            let message = format!(
                "Value ( {n} ) for parameter maxResults is invalid. Expecting a value between {} and {}.",
                bounds.least, bounds.greatest
            );
            return Err(Error::invalid("InvalidParameterValue", message));
        }
        Some(n) => usize::try_from(n).unwrap_or(usize::MAX),
    };
    let mac_of = |key: &str| {
        let bound = format!("{}\0{action}\0{scope}\0{key}", cx.account());
        cx.txn.page_mac(bound.as_bytes())
    };
    let after = match page.next_token.filter(|token| !token.is_empty()) {
        None => None,
        Some(token) => Some(open_token(token, mac_of)?),
    };
    let mut out = Vec::new();
    let mut last = String::new();
    for (key, item) in items {
        if after.as_ref().is_some_and(|after| key <= *after) {
            continue;
        }
        if out.len() == limit {
            let mut bytes = mac_of(&last)[..MAC_BYTES].to_vec();
            bytes.extend_from_slice(last.as_bytes());
            return Ok((out, Some(URL_SAFE_NO_PAD.encode(bytes))));
        }
        out.push(item);
        last = key;
    }
    Ok((out, None))
}

fn open_token(token: &str, mac_of: impl Fn(&str) -> [u8; 32]) -> Result<String, Error> {
    let key = URL_SAFE_NO_PAD.decode(token).ok().filter(|bytes| bytes.len() >= MAC_BYTES).and_then(|bytes| {
        let key = std::str::from_utf8(&bytes[MAC_BYTES..]).ok()?;
        (mac_of(key)[..MAC_BYTES] == bytes[..MAC_BYTES]).then(|| key.to_owned())
    });
    key.ok_or_else(|| Error::invalid("InvalidNextToken", "The token is not valid for this request"))
}
