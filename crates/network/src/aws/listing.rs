use std::collections::BTreeSet;
use std::sync::Arc;
use terroir_action::{Bounds, Context, Filters, paginate};
use terroir_aws_model::{PageRequest, ec2};
use terroir_resources::Tags;
use terroir_store::Record;
use terroir_types::{Error, ResourceId};

use crate::model::{object_key, objects_of};

/// What a Describe action was asked for.
pub(super) struct Listing<'r> {
    action: &'static str,
    ids: &'r [String],
    pub filters: Filters,
    page: PageRequest<'r>,
}

/// One row of a list with its tags.
pub(super) struct Row<T> {
    pub record: Arc<T>,
    pub tags: Tags,
}

impl<'r> Listing<'r> {
    /// `allowed` names the action's filters.
    pub fn new(
        action: &'static str,
        ids: &'r [String],
        filters: &[ec2::Filter],
        allowed: &[&str],
        page: PageRequest<'r>,
    ) -> Result<Self, Error> {
        let named = filters.iter().map(|filter| (filter.name.as_deref(), filter.values.as_slice()));
        Ok(Self { action, ids, filters: Filters::parse(named, allowed)?, page })
    }

    /// The account's objects of one kind that were asked for, one page of them, in order of their ids.
    ///
    /// Errors: malformed and unknown ids by their own codes; those of paging.
    pub fn rows<I: ResourceId, T: Record>(
        &self,
        cx: &Context<'_>,
        field: impl Fn(&T, &str) -> Vec<String>,
    ) -> Result<(Vec<Row<T>>, Option<String>), Error> {
        self.select(cx, self.found::<I, T>(cx)?.into_iter(), field)
    }

    /// The objects that the ids name, or all of the account's, before any filter.
    pub fn found<I: ResourceId, T: Record>(&self, cx: &Context<'_>) -> Result<Vec<(String, Arc<T>)>, Error> {
        let wanted = self.ids.iter().map(|id| id.parse::<I>()).collect::<Result<BTreeSet<I>, Error>>()?;
        if wanted.is_empty() {
            let all = cx.txn.peek_range::<T>(&objects_of(T::KIND, cx.account()))?;
            return Ok(all.into_iter().map(|(key, record)| (key.last().to_owned(), record)).collect());
        }
        let find = |id: &I| {
            let record = cx.txn.peek::<T>(&object_key(T::KIND, cx.account(), id))?;
            Ok((id.to_string(), record.ok_or_else(|| I::not_found(id))?))
        };
        wanted.iter().map(find).collect()
    }

    /// One page of those of `records` that the filters let through. They come in order of their keys, which are ids.
    pub fn select<T>(
        &self,
        cx: &Context<'_>,
        records: impl Iterator<Item = (String, Arc<T>)>,
        field: impl Fn(&T, &str) -> Vec<String>,
    ) -> Result<(Vec<Row<T>>, Option<String>), Error> {
        let mut failed = None;
        let passing = records.filter(|(id, record)| {
            self.filters.is_empty()
                || match terroir_resources::tags(cx.txn, cx.account(), id) {
                    Ok(tags) => self.filters.matches(&tags, |name| field(record, name)),
                    Err(error) => {
                        failed = Some(error);
                        false
                    }
                }
        });
        let scope = format!("{:?}&{}", self.ids, self.filters.canonical());
        let keyed = passing.map(|(id, record)| (id.clone(), (id, record)));
        let (page, next_token) = paginate(cx, self.action, &scope, self.page, Bounds::EC2, keyed)?;
        if let Some(error) = failed {
            return Err(error);
        }
        let tagged = page
            .into_iter()
            .map(|(id, record)| Ok(Row { record, tags: terroir_resources::tags(cx.txn, cx.account(), &id)? }));
        Ok((tagged.collect::<Result<_, Error>>()?, next_token))
    }
}

/// What a filter sees of a truth value.
pub(super) fn truth(value: bool) -> Vec<String> {
    vec![value.to_string()]
}

/// What a filter sees of something that may be absent.
pub(super) fn maybe<T: ToString>(value: Option<T>) -> Vec<String> {
    value.map(|value| value.to_string()).into_iter().collect()
}
