use terroir_action::{Bounds, Context, paginate};
use terroir_aws_model::PageRequest;
use terroir_types::Error;

/// One page of a list, as IAM answers it.
pub(super) struct Page<T> {
    pub items: Vec<T>,
    pub is_truncated: Option<bool>,
    pub marker: Option<String>,
}

const BOUNDS: Bounds = Bounds { least: 1, greatest: 1000 };
const DEFAULT_ITEMS: i32 = 100;

/// `items` in ascending order of their keys. `scope`: what else the request asks for.
///
/// Errors: `ValidationError` for `MaxItems` or `Marker`.
pub(super) fn page<T>(
    cx: &Context<'_>,
    action: &str,
    scope: &str,
    request: PageRequest<'_>,
    items: impl IntoIterator<Item = (String, T)>,
) -> Result<Page<T>, Error> {
    let request = PageRequest { max_results: Some(request.max_results.unwrap_or(DEFAULT_ITEMS)), ..request };
    let paged = paginate(cx, action, scope, request, BOUNDS, items.into_iter());
    let (items, marker) = paged.map_err(|error| match error.code() {
        "InvalidNextToken" => Error::invalid("ValidationError", "Invalid Marker."),
        "InvalidParameterValue" => Error::invalid("ValidationError", error.message().replace("maxResults", "maxItems")),
        _ => error,
    })?;
    Ok(Page { items, is_truncated: Some(marker.is_some()), marker })
}
