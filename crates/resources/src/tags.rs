use std::collections::BTreeMap;
use terroir_types::{Error, ErrorClass};

/// Tags of one resource, by key. Keys are case-sensitive.
pub type Tags = BTreeMap<String, String>;

/// Most tags that one resource may have.
pub const MAX_TAGS: usize = 50;
const MAX_KEY_CHARS: usize = 128;
const MAX_VALUE_CHARS: usize = 256;

/// Checks tags by the limits in the EC2 User Guide, "Tag restrictions".
///
/// Errors: `TagLimitExceeded` for too many; `InvalidParameterValue` for an empty or long key, a long value, or a key
/// that begins with `aws:`, which only AWS's own services may set.
pub fn validate_tags(tags: &Tags) -> Result<(), Error> {
    if tags.len() > MAX_TAGS {
        return Err(too_many());
    }
    for (key, value) in tags {
        validate_key(key)?;
        if value.chars().count() > MAX_VALUE_CHARS {
            let message = format!("Tag value exceeds the maximum length of {} characters", MAX_VALUE_CHARS);
            return Err(Error::invalid("InvalidParameterValue", message));
        }
    }
    Ok(())
}

fn validate_key(key: &str) -> Result<(), Error> {
    let wrong = |message: String| Err(Error::invalid("InvalidParameterValue", message));
    if key.is_empty() {
        return wrong("Tag keys must have a length of at least 1 character".to_owned());
    }
    if key.chars().count() > MAX_KEY_CHARS {
        return wrong(format!("Tag key exceeds the maximum length of {} characters", MAX_KEY_CHARS));
    }
    if key.get(..4).is_some_and(|start| start.eq_ignore_ascii_case("aws:")) {
        return wrong("Tag keys starting with 'aws:' are reserved for internal use".to_owned());
    }
    Ok(())
}

pub(crate) fn too_many() -> Error {
    let message = format!("The maximum number of Tags for a resource has been reached ({MAX_TAGS})");
    Error::new(ErrorClass::Limit, "TagLimitExceeded", message)
}
