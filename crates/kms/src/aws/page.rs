use terroir_action::{Bounds, Context, paginate};
use terroir_aws_model::PageRequest;
use terroir_types::Error;

use crate::ops::constraint;

/// One page of a list, as KMS answers it.
pub(super) struct Page<T> {
    pub items: Vec<T>,
    pub truncated: Option<bool>,
    pub next_marker: Option<String>,
}

/// `items` in ascending order of their keys; without a `Limit` there are `usual` on a page, and at most `greatest` with
/// one. `scope`: what else the request asks for.
///
/// Errors: `ValidationException` for `Limit`, `InvalidMarkerException` for `Marker`.
pub(super) fn page<T>(
    cx: &Context<'_>,
    action: &str,
    scope: &str,
    request: PageRequest<'_>,
    (usual, greatest): (i32, i32),
    items: impl IntoIterator<Item = (String, T)>,
) -> Result<Page<T>, Error> {
    let request = PageRequest { max_results: Some(request.max_results.unwrap_or(usual)), ..request };
    let bounds = Bounds { least: 1, greatest };
    let (items, next_marker) =
        paginate(cx, action, scope, request, bounds, items.into_iter()).map_err(|error| match error.code() {
            "InvalidNextToken" => Error::invalid("InvalidMarkerException", "The marker is not valid."),
            "InvalidParameterValue" => constraint("limit", &format!("have value between 1 and {greatest}")),
            _ => error,
        })?;
    Ok(Page { items, truncated: Some(next_marker.is_some()), next_marker })
}
