use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use terroir_action::{Access, Action, Bounds, Context, Filters, Request, Response, Target, paginate};
use terroir_aws_model::{Decode, PageRequest, ec2};
use terroir_block_storage::aws::{no_page_of_ids, parse_filters, parse_ids, scope};
use terroir_store::Key;
use terroir_types::{Error, InstanceId, ReservationId};

use super::filters::{INSTANCE_FILTERS, values};
use super::instance_shape::{Lookup, Row};
use crate::model::Instance;
use crate::ops;

/// The instances that a request names, or the first `most` of the account, in order of their ids.
///
/// Errors: `InvalidInstanceID.Malformed`, `InvalidInstanceID.NotFound`.
pub(super) fn named(cx: &Context<'_>, ids: &[String], most: usize) -> Result<Vec<Arc<Instance>>, Error> {
    if ids.is_empty() {
        let prefix = Key::new(format!("instance/{}", cx.account()));
        let found = cx.txn.peek_page::<Instance>(&prefix, None, most)?;
        return Ok(found.into_iter().map(|(_, instance)| instance).collect());
    }
    let ids: BTreeSet<InstanceId> = parse_ids(ids)?.into_iter().collect();
    let ids: Vec<InstanceId> = ids.into_iter().collect();
    ops::all_exist(cx.txn, cx.account(), &ids)?;
    ids.into_iter().map(|id| ops::find_instance(cx.txn, cx.account(), id)).collect()
}

/// A list of instances that is asked for.
pub(super) struct Listing<'a> {
    pub action: &'a str,
    /// What a page token is bound to.
    pub scope: String,
    pub page: PageRequest<'a>,
    pub instances: Vec<Arc<Instance>>,
    pub filters: Filters,
    /// What belongs into the list at all.
    pub keep: Option<fn(&Row) -> bool>,
    /// What an instance has under a filter's name.
    pub field: fn(&mut Lookup<'_, '_>, &Row, &str) -> Result<Vec<String>, Error>,
}

impl Listing<'_> {
    /// One page of what matches. Without anything to match only the instances of the page are looked up.
    pub fn rows(self, cx: &Context<'_>) -> Result<(Vec<Row>, Option<String>), Error> {
        let lookup = RefCell::new(Lookup::new(cx));
        if self.filters.is_empty() && self.keep.is_none() {
            let items = self.instances.into_iter().map(|spec| (spec.id.to_string(), spec));
            let (page, next) = paginate(cx, self.action, &self.scope, self.page, Bounds::EC2, items)?;
            let rows = page.into_iter().map(|spec| lookup.borrow_mut().row(spec)).collect::<Result<_, _>>()?;
            return Ok((rows, next));
        }
        // The first failure; the list ends there.
        let failed: RefCell<Option<Error>> = RefCell::new(None);
        let fail = |error: Error| {
            failed.borrow_mut().get_or_insert(error);
        };
        let field = |row: &Row, name: &str| {
            (self.field)(&mut lookup.borrow_mut(), row, name).map_err(&fail).unwrap_or_default()
        };
        let items = self
            .instances
            .into_iter()
            .map_while(|spec| lookup.borrow_mut().row(spec).map_err(&fail).ok())
            .filter(|row| self.keep.is_none_or(|keep| keep(row)))
            .filter(|row| self.filters.matches(&row.tags, |name| field(row, name)))
            .map(|row| (row.spec.id.to_string(), row));
        let page = paginate(cx, self.action, &self.scope, self.page, Bounds::EC2, items)?;
        match failed.into_inner() {
            Some(error) => Err(error),
            None => Ok(page),
        }
    }
}

/// Instances with their reservations, in the order in which those come.
pub(super) fn reservations(cx: &Context<'_>, rows: &[Row]) -> Result<Vec<ec2::Reservation>, Error> {
    let mut lookup = Lookup::new(cx);
    let mut places: BTreeMap<ReservationId, usize> = BTreeMap::new();
    let mut out: Vec<ec2::Reservation> = Vec::new();
    for row in rows {
        let place = *places.entry(row.spec.reservation).or_insert_with(|| {
            out.push(ec2::Reservation {
                owner_id: Some(row.spec.account.to_string()),
                reservation_id: Some(row.spec.reservation.to_string()),
                ..ec2::Reservation::default()
            });
            out.len() - 1
        });
        out[place].instances.push(lookup.shape(row)?);
    }
    Ok(out)
}

pub struct DescribeInstances;

impl Action for DescribeInstances {
    type Op = ec2::ops::DescribeInstances;
    const ACCESS: Access = Access::Read;

    fn targets(_cx: &Context<'_>, _request: &Request<Self>) -> Result<Vec<Target>, Error> {
        Ok(vec![Target::any("ec2:DescribeInstances")])
    }

    fn run(cx: &mut Context<'_>, request: Request<Self>) -> Result<Response<Self>, Error> {
        let filters = parse_filters(&request.filters, INSTANCE_FILTERS)?;
        no_page_of_ids(&request.instance_ids, request.max_results, "instancesSet")?;
        // The first page needs no more than itself and one that says whether there is another.
        let most = match (request.max_results, &request.next_token, filters.is_empty()) {
            (Some(most), None, true) => usize::try_from(most).unwrap_or(0).saturating_add(1),
            _ => usize::MAX,
        };
        let listing = Listing {
            action: "DescribeInstances",
            scope: scope(&request.instance_ids, &filters),
            page: request.page(),
            instances: named(cx, &request.instance_ids, most)?,
            filters,
            keep: None,
            field: values,
        };
        let (rows, next_token) = listing.rows(cx)?;
        Ok(ec2::DescribeInstancesResult { reservations: reservations(cx, &rows)?, next_token })
    }
}
