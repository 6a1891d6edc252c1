use terroir_aws_model::{Decode, Empty, ec2};
use terroir_resources::{Tags, validate_tags};
use terroir_types::Error;

use super::taggable::{distinct_tags, kind_of_id};
use crate::{Access, Action, Bounds, Context, Filters, Target, paginate};

/// Most resources that one request may name.
const MAX_RESOURCES: usize = 1000;

pub struct CreateTags;

impl Action for CreateTags {
    type Op = ec2::ops::CreateTags;
    const ACCESS: Access = Access::Write;

    fn targets(cx: &Context<'_>, request: &ec2::CreateTagsRequest) -> Result<Vec<Target>, Error> {
        let tags = distinct_tags(&request.tags)?;
        targets_of(cx, "ec2:CreateTags", &request.resources, &tags)
    }

    fn run(cx: &mut Context<'_>, request: ec2::CreateTagsRequest) -> Result<Empty, Error> {
        check_resources(&request.resources)?;
        if request.tags.is_empty() {
            return Err(Error::invalid("MissingParameter", "The request must contain the parameter Tags"));
        }
        let tags = distinct_tags(&request.tags)?;
        validate_tags(&tags)?;
        let account = cx.account();
        for id in &request.resources {
            check_exists(cx, id)?;
            terroir_resources::set_tags(cx.txn, account, id, &tags)?;
        }
        Ok(Empty)
    }
}

pub struct DeleteTags;

impl Action for DeleteTags {
    type Op = ec2::ops::DeleteTags;
    const ACCESS: Access = Access::Write;

    fn targets(cx: &Context<'_>, request: &ec2::DeleteTagsRequest) -> Result<Vec<Target>, Error> {
        let tags = distinct_tags(&request.tags)?;
        targets_of(cx, "ec2:DeleteTags", &request.resources, &tags)
    }

    /// A tag with a value is removed only where it has that value; without tags, all go.
    fn run(cx: &mut Context<'_>, request: ec2::DeleteTagsRequest) -> Result<Empty, Error> {
        check_resources(&request.resources)?;
        let mut which = Vec::with_capacity(request.tags.len());
        for tag in request.tags {
            let key = tag.key.ok_or_else(|| Error::invalid("MissingParameter", "The tag must have a key"))?;
            which.push((key, tag.value));
        }
        let account = cx.account();
        for id in &request.resources {
            check_exists(cx, id)?;
            terroir_resources::remove_tags(cx.txn, account, id, &which)?;
        }
        Ok(Empty)
    }
}

fn targets_of(cx: &Context<'_>, permission: &str, ids: &[String], tags: &Tags) -> Result<Vec<Target>, Error> {
    check_resources(ids)?;
    let target = |id: &String| {
        let (kind, _) = kind_of_id(id)?;
        Ok(Target::ec2(cx, permission, kind, id)?.request_tags(tags))
    };
    ids.iter().map(target).collect()
}

fn check_resources(ids: &[String]) -> Result<(), Error> {
    if ids.is_empty() {
        return Err(Error::invalid("MissingParameter", "The request must contain the parameter ResourceId"));
    }
    if ids.len() > MAX_RESOURCES {
        let message = format!("At most {MAX_RESOURCES} resources can be named in one request");
        return Err(Error::invalid("InvalidParameterValue", message));
    }
    Ok(())
}

fn check_exists(cx: &Context<'_>, id: &str) -> Result<(), Error> {
    let (_, not_found) = kind_of_id(id)?;
    match terroir_resources::find(cx.txn, cx.account(), id)? {
        Some(_) => Ok(()),
        None => Err(not_found),
    }
}

pub struct DescribeTags;

impl Action for DescribeTags {
    type Op = ec2::ops::DescribeTags;
    const ACCESS: Access = Access::Read;

    fn targets(_cx: &Context<'_>, _request: &ec2::DescribeTagsRequest) -> Result<Vec<Target>, Error> {
        Ok(vec![Target::any("ec2:DescribeTags")])
    }

    fn run(cx: &mut Context<'_>, request: ec2::DescribeTagsRequest) -> Result<ec2::DescribeTagsResult, Error> {
        let allowed = ["key", "value", "resource-id", "resource-type", "tag"];
        let named = request.filters.iter().map(|filter| (filter.name.as_deref(), filter.values.as_slice()));
        let filters = Filters::parse(named, &allowed)?;
        let mut found = Vec::new();
        for (id, row) in terroir_resources::list(cx.txn, cx.account())? {
            for (key, value) in row.tags() {
                let one = Tags::from([(key.clone(), value.clone())]);
                let field = |name: &str| match name {
                    "key" => vec![key.clone()],
                    "value" => vec![value.clone()],
                    "resource-id" => vec![id.clone()],
                    "resource-type" => vec![row.kind.clone()],
                    _ => Vec::new(),
                };
                if filters.matches(&one, field) {
                    let tag = ec2::TagDescription {
                        key: Some(key.clone()),
                        resource_id: Some(id.clone()),
                        resource_type: Some(row.kind.clone()),
                        value: Some(value.clone()),
                    };
                    found.push((format!("{id}/{key}"), tag));
                }
            }
        }
        // Ids are all of one alphabet, so ids first and keys second is the order of the joined text too.
        found.sort_by(|(a, _), (b, _)| a.cmp(b));
        let scope = filters.canonical();
        let (tags, next_token) = paginate(cx, "DescribeTags", &scope, request.page(), Bounds::EC2, found.into_iter())?;
        Ok(ec2::DescribeTagsResult { next_token, tags })
    }
}
