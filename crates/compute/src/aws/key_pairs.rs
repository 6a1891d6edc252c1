use async_trait::async_trait;
use std::collections::BTreeMap;
use std::sync::Arc;
use terroir_action::general::{ec2_tags, specified_tags};
use terroir_action::{Access, Action, Context, LiveAction, LiveContext, Request, Response, Target};
use terroir_aws_model::ec2;
use terroir_block_storage::aws::{parse_filters, parse_ids};
use terroir_resources::Tags;
use terroir_store::Key;
use terroir_types::{Error, ErrorClass, KeyPairId};

use super::key_material::{self, Public};
use crate::model::KeyPair;
use crate::ops::{self, NewKeyPair};

fn tags(specifications: &[ec2::TagSpecification]) -> Result<Tags, Error> {
    specified_tags(specifications, "key-pair", &[])
}

fn create_targets(cx: &Context<'_>, action: &str, name: &str, tags: &Tags) -> Vec<Target> {
    let arn = cx.ec2_arn("key-pair", name);
    let mut targets = vec![Target::on(format!("ec2:{action}"), arn.clone()).request_tags(tags)];
    if !tags.is_empty() {
        targets.push(Target::on("ec2:CreateTags", arn).request_tags(tags).key("ec2:CreateAction", action));
    }
    targets
}

fn new(name: String, public: &Public, tags: Tags) -> NewKeyPair {
    NewKeyPair {
        name,
        key_type: public.key_type,
        openssh: public.openssh.clone(),
        fingerprint: public.fingerprint.clone(),
        tags,
    }
}

pub struct CreateKeyPair;

#[async_trait]
impl LiveAction for CreateKeyPair {
    type Op = ec2::ops::CreateKeyPair;
    const ACCESS: Access = Access::Write;

    fn targets(&self, cx: &Context<'_>, request: &ec2::CreateKeyPairRequest) -> Result<Vec<Target>, Error> {
        Ok(create_targets(cx, "CreateKeyPair", &request.key_name, &tags(&request.tag_specifications)?))
    }

    async fn run(&self, cx: LiveContext<'_>, request: ec2::CreateKeyPairRequest) -> Result<ec2::KeyPair, Error> {
        let key_type = key_material::key_type(request.key_type.as_deref(), request.key_format.as_deref())?;
        let tags = tags(&request.tag_specifications)?;
        let account = cx.caller.account;
        // A name that is taken is told before a key is made for nothing; the transaction below decides.
        let txn = cx.store.read().await?;
        match ops::find_key_pair_named(&txn, account, &request.key_name) {
            Ok(_) => return Err(ops::key_name_taken(&request.key_name)),
            Err(error) if error.class() == ErrorClass::NotFound => {}
            Err(error) => return Err(error),
        }
        drop(txn);
        let mut seed = [0; 32];
        cx.ids.fill(&mut seed);
        let made = tokio::task::spawn_blocking(move || key_material::generate(key_type, seed));
        let made = made.await.map_err(Error::internal)??;
        let now = cx.clock.now();
        let make = || new(request.key_name.clone(), &made.public, tags.clone());
        let (key_pair, _) =
            cx.store.transact(&[], |txn| ops::create_key_pair(txn, cx.ids, account, now, make())).await?;
        Ok(ec2::KeyPair {
            key_fingerprint: Some(key_pair.fingerprint.clone()),
            key_material: Some(made.private.expose().clone()),
            key_name: Some(key_pair.tenant.name.clone()),
            key_pair_id: Some(key_pair.id.to_string()),
            tags: ec2_tags(&tags),
        })
    }
}

pub struct ImportKeyPair;

impl Action for ImportKeyPair {
    type Op = ec2::ops::ImportKeyPair;
    const ACCESS: Access = Access::Write;

    fn targets(cx: &Context<'_>, request: &Request<Self>) -> Result<Vec<Target>, Error> {
        Ok(create_targets(cx, "ImportKeyPair", &request.key_name, &tags(&request.tag_specifications)?))
    }

    fn run(cx: &mut Context<'_>, request: Request<Self>) -> Result<Response<Self>, Error> {
        let tags = tags(&request.tag_specifications)?;
        let public = key_material::parse(&request.public_key_material)?;
        let new = new(request.key_name, &public, tags.clone());
        let key_pair = ops::create_key_pair(cx.txn, cx.ids, cx.caller.account, cx.now, new)?;
        Ok(ec2::ImportKeyPairResult {
            key_fingerprint: Some(key_pair.fingerprint.clone()),
            key_name: Some(key_pair.tenant.name.clone()),
            key_pair_id: Some(key_pair.id.to_string()),
            tags: ec2_tags(&tags),
        })
    }
}

pub struct DescribeKeyPairs;

fn field(key_pair: &KeyPair, name: &str) -> Vec<String> {
    match name {
        "fingerprint" => vec![key_pair.fingerprint.clone()],
        "key-name" => vec![key_pair.tenant.name.clone()],
        "key-pair-id" => vec![key_pair.id.to_string()],
        "key-type" => vec![key_pair.key_type.name().to_owned()],
        _ => Vec::new(),
    }
}

fn named(cx: &Context<'_>, request: &ec2::DescribeKeyPairsRequest) -> Result<Vec<Arc<KeyPair>>, Error> {
    let account = cx.account();
    if request.key_names.is_empty() && request.key_pair_ids.is_empty() {
        let all = cx.txn.peek_range::<KeyPair>(&Key::new(format!("key-pair/{account}")))?;
        return Ok(all.into_iter().map(|(_, pair)| pair).filter(|pair| pair.deleted_at.is_none()).collect());
    }
    let mut found: BTreeMap<KeyPairId, Arc<KeyPair>> = BTreeMap::new();
    for id in parse_ids::<KeyPairId>(&request.key_pair_ids)? {
        found.insert(id, ops::find_key_pair(cx.txn, account, id)?);
    }
    for name in &request.key_names {
        let pair = ops::find_key_pair_named(cx.txn, account, name)?;
        found.insert(pair.id, pair);
    }
    Ok(found.into_values().collect())
}

impl Action for DescribeKeyPairs {
    type Op = ec2::ops::DescribeKeyPairs;
    const ACCESS: Access = Access::Read;

    fn targets(_cx: &Context<'_>, _request: &Request<Self>) -> Result<Vec<Target>, Error> {
        Ok(vec![Target::any("ec2:DescribeKeyPairs")])
    }

    fn run(cx: &mut Context<'_>, request: Request<Self>) -> Result<Response<Self>, Error> {
        const FILTERS: &[&str] = &["fingerprint", "key-name", "key-pair-id", "key-type", "tag"];
        let filters = parse_filters(&request.filters, FILTERS)?;
        let mut key_pairs = Vec::new();
        for pair in named(cx, &request)? {
            let tags = terroir_resources::tags(cx.txn, cx.account(), &pair.id.to_string())?;
            if !filters.matches(&tags, |name| field(&pair, name)) {
                continue;
            }
            key_pairs.push(ec2::KeyPairInfo {
                create_time: Some(pair.created_at),
                key_fingerprint: Some(pair.fingerprint.clone()),
                key_name: Some(pair.tenant.name.clone()),
                key_pair_id: Some(pair.id.to_string()),
                key_type: Some(pair.key_type.name().to_owned()),
                public_key: (request.include_public_key == Some(true)).then(|| pair.tenant.openssh.clone()),
                tags: ec2_tags(&tags),
            });
        }
        key_pairs.sort_by(|a, b| a.key_name.cmp(&b.key_name));
        Ok(ec2::DescribeKeyPairsResult { key_pairs })
    }
}

pub struct DeleteKeyPair;

impl DeleteKeyPair {
    fn find(cx: &Context<'_>, request: &ec2::DeleteKeyPairRequest) -> Result<Option<Arc<KeyPair>>, Error> {
        let account = cx.account();
        let found = match (&request.key_name, &request.key_pair_id) {
            (_, Some(id)) if !id.is_empty() => ops::find_key_pair(cx.txn, account, id.parse()?),
            (Some(name), _) if !name.is_empty() => ops::find_key_pair_named(cx.txn, account, name),
            _ => {
                let message = "The request must contain the parameter KeyName or KeyPairId";
                return Err(Error::invalid("MissingParameter", message));
            }
        };
        match found {
            Ok(found) => Ok(Some(found)),
            // Deleting what is not there is no error.
            Err(error) if error.class() == ErrorClass::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl Action for DeleteKeyPair {
    type Op = ec2::ops::DeleteKeyPair;
    const ACCESS: Access = Access::Write;

    fn targets(cx: &Context<'_>, request: &Request<Self>) -> Result<Vec<Target>, Error> {
        let name = match (&request.key_name, &request.key_pair_id) {
            (Some(name), _) => name.clone(),
            (None, Some(_)) => Self::find(cx, request)?.map_or_else(|| "*".to_owned(), |pair| pair.tenant.name.clone()),
            (None, None) => "*".to_owned(),
        };
        Ok(vec![Target::on("ec2:DeleteKeyPair", cx.ec2_arn("key-pair", name))])
    }

    fn run(cx: &mut Context<'_>, request: Request<Self>) -> Result<Response<Self>, Error> {
        let found = Self::find(cx, &request)?;
        if let Some(key_pair) = &found {
            ops::delete_key_pair(cx.txn, key_pair, cx.now)?;
        }
        Ok(ec2::DeleteKeyPairResult { key_pair_id: found.map(|pair| pair.id.to_string()), return_: Some(true) })
    }
}
