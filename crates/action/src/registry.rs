use async_trait::async_trait;
use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::sync::Arc;
use terroir_aws_model::{Decode, Operation, Params, Service, encode_response};
use terroir_store::Key;
use terroir_types::Error;

use crate::{Access, Action, Context, LiveAction, LiveContext, Target};

/// An answer, already in its protocol's form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    pub body: String,
    /// What to keep for a repeat with the same client token instead of the body.
    pub receipt: Option<String>,
}

/// One decoded request, its types erased.
#[async_trait]
pub trait Call: Send + Sync {
    fn client_token(&self) -> Option<&str>;
    fn dry_run(&self) -> bool;
    /// Whether [`Call::run_live`] is the one to call, instead of [`Call::run`].
    fn is_live(&self) -> bool;
    fn targets(&self, cx: &Context<'_>) -> Result<Vec<Target>, Error>;
    fn prefetch(&self, cx: &Context<'_>) -> Result<Vec<Key>, Error>;
    fn run(&self, cx: &mut Context<'_>) -> Result<Reply, Error>;
    fn replay(&self, cx: &mut Context<'_>, receipt: &str) -> Result<Reply, Error>;
    async fn run_live(&self, cx: LiveContext<'_>) -> Result<Reply, Error>;
}

/// One action by name.
pub trait Entry: Send + Sync {
    fn service(&self) -> Service;
    fn name(&self) -> &'static str;
    fn access(&self) -> Access;
    /// Whether it may come without a signature.
    fn unsigned(&self) -> bool;
    /// Errors: `MissingParameter`, `InvalidParameterValue`, `UnknownParameter`, ... of the decoder.
    fn decode(&self, params: &Params) -> Result<Box<dyn Call>, Error>;
}

/// Every action that this cloud implements, by service and name.
#[derive(Default)]
pub struct Registry {
    entries: BTreeMap<(&'static str, &'static str), Arc<dyn Entry>>,
}

impl Registry {
    pub fn new() -> Self {
        Self::default()
    }

    /// # Panics
    /// If an action of that name is there already: two crates claim it, which no input can cause.
    pub fn add<A: Action>(&mut self) {
        self.insert(Arc::new(PlainEntry::<A>(PhantomData)));
    }

    /// # Panics
    /// As [`Registry::add`].
    pub fn add_live<A: LiveAction>(&mut self, action: A) {
        self.insert(Arc::new(LiveEntry(Arc::new(action))));
    }

    fn insert(&mut self, entry: Arc<dyn Entry>) {
        let key = (entry.service().signing_name(), entry.name());
        let before = self.entries.insert(key, entry);
        assert!(before.is_none(), "{key:?} is registered twice");
    }

    pub fn find(&self, service: Service, name: &str) -> Option<&Arc<dyn Entry>> {
        // The map's keys are 'static; a lookup with a shorter lifetime needs the range form.
        self.entries
            .range((service.signing_name(), "")..)
            .take_while(|((signing_name, _), _)| *signing_name == service.signing_name())
            .find(|((_, known), _)| *known == name)
            .map(|(_, entry)| entry)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Arc<dyn Entry>> {
        self.entries.values()
    }
}

struct PlainEntry<A>(PhantomData<fn() -> A>);

impl<A: Action> Entry for PlainEntry<A> {
    fn service(&self) -> Service {
        A::Op::SERVICE
    }

    fn name(&self) -> &'static str {
        A::Op::NAME
    }

    fn access(&self) -> Access {
        A::ACCESS
    }

    fn unsigned(&self) -> bool {
        false
    }

    fn decode(&self, params: &Params) -> Result<Box<dyn Call>, Error> {
        let request =
            <A::Op as Operation>::Request::decode(params).map_err(|error| error.into_error(A::Op::SERVICE))?;
        Ok(Box::new(PlainCall::<A> { request }))
    }
}

struct PlainCall<A: Action> {
    request: <A::Op as Operation>::Request,
}

impl<A: Action> PlainCall<A> {
    fn reply(cx: &Context<'_>, response: &<A::Op as Operation>::Response) -> Reply {
        Reply { body: encode_response::<A::Op>(response, cx.request_id), receipt: A::receipt(response) }
    }
}

#[async_trait]
impl<A: Action> Call for PlainCall<A> {
    fn client_token(&self) -> Option<&str> {
        self.request.client_token()
    }

    fn dry_run(&self) -> bool {
        self.request.dry_run()
    }

    fn is_live(&self) -> bool {
        false
    }

    fn targets(&self, cx: &Context<'_>) -> Result<Vec<Target>, Error> {
        A::targets(cx, &self.request)
    }

    fn prefetch(&self, cx: &Context<'_>) -> Result<Vec<Key>, Error> {
        A::prefetch(cx, &self.request)
    }

    fn run(&self, cx: &mut Context<'_>) -> Result<Reply, Error> {
        let response = A::run(cx, self.request.clone())?;
        Ok(Self::reply(cx, &response))
    }

    fn replay(&self, cx: &mut Context<'_>, receipt: &str) -> Result<Reply, Error> {
        let response = A::replay(cx, receipt)?;
        Ok(Self::reply(cx, &response))
    }

    async fn run_live(&self, _cx: LiveContext<'_>) -> Result<Reply, Error> {
        Err(Error::internal(format_args!("{} is not a live action", A::Op::NAME)))
    }
}

struct LiveEntry<A>(Arc<A>);

impl<A: LiveAction> Entry for LiveEntry<A> {
    fn service(&self) -> Service {
        A::Op::SERVICE
    }

    fn name(&self) -> &'static str {
        A::Op::NAME
    }

    fn access(&self) -> Access {
        A::ACCESS
    }

    fn unsigned(&self) -> bool {
        A::UNSIGNED
    }

    fn decode(&self, params: &Params) -> Result<Box<dyn Call>, Error> {
        let request =
            <A::Op as Operation>::Request::decode(params).map_err(|error| error.into_error(A::Op::SERVICE))?;
        Ok(Box::new(LiveCall { action: Arc::clone(&self.0), request }))
    }
}

struct LiveCall<A: LiveAction> {
    action: Arc<A>,
    request: <A::Op as Operation>::Request,
}

#[async_trait]
impl<A: LiveAction> Call for LiveCall<A> {
    fn client_token(&self) -> Option<&str> {
        self.request.client_token()
    }

    fn dry_run(&self) -> bool {
        self.request.dry_run()
    }

    fn is_live(&self) -> bool {
        true
    }

    fn targets(&self, cx: &Context<'_>) -> Result<Vec<Target>, Error> {
        self.action.targets(cx, &self.request)
    }

    fn prefetch(&self, _cx: &Context<'_>) -> Result<Vec<Key>, Error> {
        Ok(Vec::new())
    }

    fn run(&self, _cx: &mut Context<'_>) -> Result<Reply, Error> {
        Err(Error::internal(format_args!("{} is a live action", A::Op::NAME)))
    }

    fn replay(&self, _cx: &mut Context<'_>, _receipt: &str) -> Result<Reply, Error> {
        Err(Error::internal(format_args!("{} is a live action", A::Op::NAME)))
    }

    async fn run_live(&self, cx: LiveContext<'_>) -> Result<Reply, Error> {
        let request_id = cx.request_id;
        let response = self.action.run(cx, self.request.clone()).await?;
        Ok(Reply { body: encode_response::<A::Op>(&response, request_id), receipt: None })
    }
}
