use terroir_action::Registry;
use terroir_aws_model::{Decode, Empty, kms};
use terroir_resources::Tags;
use terroir_types::Error;

use super::page::page;
use super::{OWN, action, manages, present, the_key};
use crate::ops;

pub(super) fn register(registry: &mut Registry) {
    registry.add::<TagResource>();
    registry.add::<UntagResource>();
    registry.add::<ListResourceTags>();
}

/// Errors: `ValidationException`, `TagException` for a key that comes twice.
pub(super) fn read(list: &[kms::Tag]) -> Result<Tags, Error> {
    let mut tags = Tags::new();
    for tag in list {
        let (key, value) = (present(&tag.tag_key, "tagKey")?, present(&tag.tag_value, "tagValue")?);
        if tags.insert(key.clone(), value.clone()).is_some() {
            return Err(Error::invalid("TagException", "Duplicate tag keys are not allowed."));
        }
    }
    Ok(tags)
}

action!(
    TagResource,
    Write,
    |cx, r| {
        let tags = read(&r.tags).unwrap_or_default();
        let targets = manages(cx, "TagResource", &r.key_id, OWN)?;
        Ok(targets.into_iter().map(|target| target.request_tags(&tags)).collect())
    },
    |cx, r| {
        let key = the_key(cx, &r.key_id, OWN)?;
        ops::tag(cx.txn, &key, &cx.region.name, &read(&r.tags)?)?;
        Ok(Empty)
    }
);

action!(
    UntagResource,
    Write,
    |cx, r| {
        let mut targets = manages(cx, "UntagResource", &r.key_id, OWN)?;
        for target in &mut targets {
            target.keys.push(("aws:TagKeys".to_owned(), r.tag_keys.clone()));
        }
        Ok(targets)
    },
    |cx, r| {
        let key = the_key(cx, &r.key_id, OWN)?;
        ops::untag(cx.txn, &key, &cx.region.name, &r.tag_keys)?;
        Ok(Empty)
    }
);

action!(ListResourceTags, Read, |cx, r| manages(cx, "ListResourceTags", &r.key_id, OWN), |cx, r| {
    let key = the_key(cx, &r.key_id, OWN)?;
    let tag = |(name, value): (&String, &String)| {
        let tag = kms::Tag { tag_key: Some(name.clone()), tag_value: Some(value.clone()) };
        (name.clone(), tag)
    };
    let tags = key.tenant.tags.iter().map(tag);
    let page = page(cx, "ListResourceTags", &key.id.to_string(), r.page(), (50, 50), tags)?;
    Ok(kms::ListResourceTagsResponse { tags: page.items, next_marker: page.next_marker, truncated: page.truncated })
});
