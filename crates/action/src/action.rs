use async_trait::async_trait;
use std::sync::Arc;
use terroir_aws_model::Operation;
use terroir_store::{Key, Store};
use terroir_types::{Clock, Error, IdSource};

use crate::{Caller, Context, Region, Target};

pub type Request<A> = <<A as Action>::Op as Operation>::Request;
pub type Response<A> = <<A as Action>::Op as Operation>::Response;

/// Whether an action may change state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    Read,
    Write,
}

/// An action that is one command over one transaction.
pub trait Action: Send + Sync + 'static {
    type Op: Operation;
    const ACCESS: Access;

    /// Every permission that must be allowed first. It does not check that what the request names exists, so that an
    /// unauthorised caller learns nothing. An empty list means that any authenticated caller may do it.
    fn targets(cx: &Context<'_>, request: &Request<Self>) -> Result<Vec<Target>, Error>;

    /// Keys outside the in-memory view that `run` reads.
    fn prefetch(_cx: &Context<'_>, _request: &Request<Self>) -> Result<Vec<Key>, Error> {
        Ok(Vec::new())
    }

    /// May be called several times for one request if transactions conflict; only the last one's writes count.
    fn run(cx: &mut Context<'_>, request: Request<Self>) -> Result<Response<Self>, Error>;

    /// For a repeat with the same client token: what to keep of the answer. `None` keeps the whole body.
    fn receipt(_response: &Response<Self>) -> Option<String> {
        None
    }

    /// Answers a repeat from what [`Action::receipt`] kept.
    fn replay(_cx: &mut Context<'_>, _receipt: &str) -> Result<Response<Self>, Error> {
        Err(Error::internal(format_args!("{} keeps a receipt but cannot replay it", Self::Op::NAME)))
    }
}

/// What a [`LiveAction`] works with.
pub struct LiveContext<'a> {
    pub store: &'a Store,
    pub caller: &'a Caller,
    pub clock: &'a Arc<dyn Clock>,
    pub ids: &'a dyn IdSource,
    pub region: &'a Region,
    pub request_id: &'a str,
}

/// An action that waits for something outside a transaction: a host's answer, an object, a slow computation. It
/// commits, if at all, in transactions of its own.
#[async_trait]
pub trait LiveAction: Send + Sync + 'static {
    type Op: Operation;
    const ACCESS: Access;
    /// Whether it may come without a signature; the caller is then [`Caller::anonymous`].
    const UNSIGNED: bool = false;

    /// As [`Action::targets`].
    fn targets(&self, cx: &Context<'_>, request: &<Self::Op as Operation>::Request) -> Result<Vec<Target>, Error>;

    async fn run(
        &self,
        cx: LiveContext<'_>,
        request: <Self::Op as Operation>::Request,
    ) -> Result<<Self::Op as Operation>::Response, Error>;
}
