//! One action from its bytes to its answer.

use axum::body::Body;
use bytes::Bytes;
use http::{Method, Response, StatusCode, request};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use std::sync::Arc;
use std::time::Instant;
use terroir_action::{Access, Call, Caller, Context, Entry, LiveContext, Region, Reply};
use terroir_aws_model::{ActionStatus, Params, Service};
use terroir_iam::RequestFacts;
use terroir_iam::sigv4::{self, Presented, SignatureError};
use terroir_store::{Key, Txn};
use terroir_types::{AccountId, Error, ErrorClass};

use crate::ApiServer;
use crate::audit::{self, Draft};
use crate::failure::{Failure, response};
use crate::idempotency::Token;
use crate::server::Trace;

/// A request whose sender is known and whose parameters are read.
struct Admitted {
    caller: Caller,
    entry: Arc<dyn Entry>,
    call: Box<dyn Call>,
}

/// How far an attempt came.
enum Fetched {
    Done(Reply),
    /// Nothing was done: these records outside the view must be at hand.
    Wants(Vec<Key>),
}

/// Attempts to have the right records at hand while others replace them.
const PREFETCH_ATTEMPTS: usize = 8;

/// A request as it came.
#[derive(Clone, Copy)]
struct Sent<'a> {
    service: Service,
    parts: &'a request::Parts,
    body: &'a Bytes,
    facts: &'a RequestFacts,
    request_id: &'a str,
    started: Instant,
}

/// What a request is answered from.
struct Arrival<'a> {
    service: Service,
    facts: &'a RequestFacts,
    request_id: &'a str,
    started: Instant,
    /// As it was when the request came.
    region: Arc<Region>,
    /// Name and value of every parameter as sent, in order of names.
    pairs: Vec<(String, String)>,
    params: Params,
}

impl ApiServer {
    /// Answers a request for an action.
    pub(crate) async fn action(
        &self,
        parts: &request::Parts,
        body: Body,
        facts: &RequestFacts,
        request_id: &str,
        started: Instant,
    ) -> (Response<Body>, Trace) {
        let presented = Presented::read(parts);
        let mut service = service_of(presented.as_ref().ok(), parts, &[]);
        let claimed_key = presented.as_ref().ok().map(|presented| presented.access_key_id.clone());
        let draft = Draft { claimed_key, ..Draft::default() };
        let mut trace = Trace { service: "-", action: "-", account: None, code: "OK".to_owned(), draft };
        let answer = async {
            let body = self.read_body(service, parts, body).await?;
            service = service_of(presented.as_ref().ok(), parts, &body);
            let presented = match presented {
                Ok(presented) => Some(presented),
                Err(SignatureError::Missing) if self.may_be_unsigned(service, parts, &body) => None,
                Err(error) => {
                    let failure = Failure::of_signature(service, &error);
                    return Err(self.failed_to_authenticate(service, facts, failure));
                }
            };
            let sent = Sent { service, parts, body: &body, facts, request_id, started };
            self.admit_and_run(sent, presented.as_ref(), &mut trace).await
        };
        let answer = Box::pin(answer).await;
        trace.service = service.signing_name();
        let response = match answer {
            Ok(reply) => response(service, StatusCode::OK, reply.body, request_id),
            Err(failure) => {
                trace.code.clone_from(&failure.code);
                trace.draft.failed = true;
                trace.draft.message.clone_from(&failure.message);
                failure.into_response(service, request_id)
            }
        };
        (response, trace)
    }

    async fn read_body(&self, service: Service, parts: &request::Parts, body: Body) -> Result<Bytes, Failure> {
        if !matches!(parts.method, Method::GET | Method::POST) {
            let error = Error::invalid("InvalidRequest", format!("The method {} is not supported.", parts.method));
            return Err(Failure { status: StatusCode::METHOD_NOT_ALLOWED, ..Failure::of(service, &error) });
        }
        let limits = self.limits();
        let read = tokio::time::timeout(limits.body_deadline, Limited::new(body, limits.body_bytes).collect()).await;
        match read {
            Ok(Ok(body)) => Ok(body.to_bytes()),
            Ok(Err(error)) if error.is::<LengthLimitError>() => {
                let message = format!("The request has more than {} bytes.", limits.body_bytes);
                let error = Error::invalid("RequestEntityTooLarge", message);
                Err(Failure { status: StatusCode::PAYLOAD_TOO_LARGE, ..Failure::of(service, &error) })
            }
            Ok(Err(_)) => {
                Err(Failure::of(service, &Error::invalid("IncompleteBody", "The request ended before its body.")))
            }
            Err(_) => {
                let error = Error::invalid("RequestTimeout", "The request took too long to arrive.");
                Err(Failure { status: StatusCode::REQUEST_TIMEOUT, ..Failure::of(service, &error) })
            }
        }
    }

    /// Whether the request is for an action that comes without a signature.
    fn may_be_unsigned(&self, service: Service, parts: &request::Parts, body: &[u8]) -> bool {
        // Where JSON is spoken the head of the request says what it asks for.
        let body = if service.speaks_json() { b"{}" } else { body };
        let entry = read_params(service, parts, body).ok().and_then(|params| self.entry(service, &params).ok());
        entry.is_some_and(|entry| entry.unsigned())
    }

    async fn admit_and_run(
        &self,
        sent: Sent<'_>,
        presented: Option<&Presented>,
        trace: &mut Trace,
    ) -> Result<Reply, Failure> {
        let Sent { service, parts, body, facts, request_id, .. } = sent;
        let fail = |error: &Error| self.failure(service, request_id, error);
        let mut txn = self.0.parts.store.read().await.map_err(|error| fail(&error.into()))?;
        let caller = match presented {
            Some(presented) => {
                let hash = sigv4::payload_hash(body);
                let checked = self.0.authenticator.check(&txn, service, presented, parts, &hash, facts.now);
                let caller = checked.map_err(|failure| self.failed_to_authenticate(service, facts, failure))?;
                trace.account = Some(caller.account);
                trace.draft.caller = Some(caller.clone());
                if !self.0.accounts.take(&caller.account, facts.now) {
                    return Err(Failure::throttled(service));
                }
                self.note_use(presented);
                caller
            }
            // Nobody's account pays for it, so the address does.
            None if !self.count_failure(facts) => return Err(Failure::throttled(service)),
            None => {
                trace.draft.caller = Some(Caller::anonymous());
                Caller::anonymous()
            }
        };
        // Nothing is read of what nobody answers for: JSON takes many times its bytes.
        let arrival = arrival(sent, self.0.parts.region.get())?;
        trace.draft.operation = arrival.params.action().map(shown).filter(|name| !name.is_empty());
        let entry = self.entry(service, &arrival.params).map_err(|error| fail(&error))?;
        if presented.is_some() && !self.may(&caller.account, &*entry, facts) {
            return Err(Failure::throttled(service));
        }
        trace.action = entry.name();
        trace.draft.read_only = entry.access() == Access::Read;
        trace.draft.parameters = terroir_audit::parameters(service, &arrival.params);
        let call = entry.decode(&arrival.params).map_err(|error| fail(&error))?;
        let targets = call.targets(&self.context(&mut txn, &caller, &arrival)).map_err(|error| fail(&error))?;
        trace.draft.resources = audit::resources(&targets);
        self.0.parts.iam.authorize_in(&txn, &caller, &targets, facts).await.map_err(|error| fail(&error))?;
        let admitted = Admitted { caller, entry, call };
        self.run(&arrival, &admitted, txn, &mut trace.draft).await.map_err(|error| fail(&error))
    }

    /// What a sender gets who is not whom it claims to be: told so, or, beyond the rate of its address, to go slower.
    /// Others at that address are not held up.
    fn failed_to_authenticate(&self, service: Service, facts: &RequestFacts, failure: Failure) -> Failure {
        if self.count_failure(facts) { failure } else { Failure::throttled(service) }
    }

    /// Whether the account may do more of this class.
    fn may(&self, account: &AccountId, entry: &dyn Entry, facts: &RequestFacts) -> bool {
        match (entry.access(), entry.name()) {
            (_, "RunInstances") => self.0.launches.take(account, facts.now),
            (Access::Write, _) => self.0.changes.take(account, facts.now),
            (Access::Read, _) => true,
        }
    }

    fn failure(&self, service: Service, request_id: &str, error: &Error) -> Failure {
        if matches!(error.class(), ErrorClass::Internal | ErrorClass::Unavailable) {
            tracing::error!(request_id, code = error.code(), detail = error.internal_detail(), "a request failed");
        }
        Failure::of(service, error)
    }

    fn note_use(&self, presented: &Presented) {
        let iam = &self.0.parts.iam;
        if !iam.use_is_recorded(&presented.access_key_id) {
            let (iam, key, scope) = (iam.clone(), presented.access_key_id.clone(), presented.scope.clone());
            tokio::spawn(async move { iam.record_use(&key, &scope.service, &scope.region).await });
        }
    }

    /// Errors: `InvalidAction`, `UnsupportedOperation`; where JSON is spoken `UnknownOperationException` and
    /// `UnsupportedOperationException`.
    fn entry(&self, service: Service, params: &Params) -> Result<Arc<dyn Entry>, Error> {
        let action = params.action().unwrap_or_default();
        let shown = shown(action);
        let is_json = service.speaks_json();
        if !is_json && params.version() != Some(service.api_version()) {
            let version = params.version().unwrap_or("NO_VERSION_SPECIFIED");
            let version: String = version.chars().filter(|c| c.is_ascii_graphic()).take(32).collect();
            let message = format!("Could not find operation {shown} for version {version}");
            return Err(Error::invalid("InvalidAction", message));
        }
        if let Some(entry) = self.0.parts.registry.find(service, action) {
            return Ok(Arc::clone(entry));
        }
        match service.action_status(action) {
            ActionStatus::Unknown if is_json => {
                let message = format!("The operation {shown} is not known to this service.");
                Err(Error::invalid("UnknownOperationException", message))
            }
            ActionStatus::Unknown => {
                let message = format!("The action {shown} is not valid for this web service.");
                Err(Error::invalid("InvalidAction", message))
            }
            ActionStatus::Implemented | ActionStatus::Unimplemented => Err(Error::new(
                ErrorClass::Unsupported,
                if is_json { "UnsupportedOperationException" } else { "UnsupportedOperation" },
                format!("The operation {shown} is not available in this cloud."),
            )),
        }
    }

    fn context<'a>(&'a self, txn: &'a mut Txn, caller: &'a Caller, arrival: &'a Arrival<'_>) -> Context<'a> {
        Context {
            txn,
            caller,
            now: arrival.facts.now,
            ids: &*self.0.parts.ids,
            region: &arrival.region,
            request_id: arrival.request_id,
        }
    }

    async fn run(
        &self,
        arrival: &Arrival<'_>,
        admitted: &Admitted,
        mut txn: Txn,
        draft: &mut Draft,
    ) -> Result<Reply, Error> {
        if admitted.call.is_live() {
            return self.run_live(arrival, admitted, draft).await;
        }
        let mut prefetch = self.prefetch(arrival, admitted, &mut txn)?;
        let token = self.token(arrival, admitted, &txn)?;
        for _ in 0..PREFETCH_ATTEMPTS {
            let done = match admitted.entry.access() {
                Access::Read if !admitted.call.dry_run() => {
                    if !prefetch.is_empty() {
                        txn = self.0.parts.store.read_with(&prefetch).await?;
                    }
                    self.run_if_fetched(arrival, admitted, &mut txn, &prefetch)?
                }
                Access::Read | Access::Write => self.write(arrival, admitted, &prefetch, token.as_ref(), draft).await?,
            };
            match done {
                Fetched::Done(reply) => return Ok(reply),
                Fetched::Wants(keys) => prefetch = keys,
            }
        }
        Err(Error::unavailable("What the request reads is being changed. Try again later."))
    }

    fn prefetch(&self, arrival: &Arrival<'_>, admitted: &Admitted, txn: &mut Txn) -> Result<Vec<Key>, Error> {
        admitted.call.prefetch(&self.context(txn, &admitted.caller, arrival))
    }

    /// Runs the action, unless this transaction has it read other records outside the view than those at hand.
    fn run_if_fetched(
        &self,
        arrival: &Arrival<'_>,
        admitted: &Admitted,
        txn: &mut Txn,
        prefetch: &[Key],
    ) -> Result<Fetched, Error> {
        let wants = self.prefetch(arrival, admitted, txn)?;
        if wants != prefetch {
            return Ok(Fetched::Wants(wants));
        }
        let mut cx = self.context(txn, &admitted.caller, arrival);
        admitted.call.run(&mut cx).map(Fetched::Done)
    }

    fn token(&self, arrival: &Arrival<'_>, admitted: &Admitted, txn: &Txn) -> Result<Option<Token>, Error> {
        let token = admitted.call.client_token().filter(|token| !token.is_empty());
        let account: AccountId = admitted.caller.account;
        token
            .map(|token| Token::new(txn, account, arrival.service, admitted.entry.name(), token, &arrival.pairs))
            .transpose()
    }

    /// The change, its answer for a repeat, and its audit record: one transaction. With `DryRun` everything is
    /// checked that running it checks, and the error keeps the transaction from being committed.
    async fn write(
        &self,
        arrival: &Arrival<'_>,
        admitted: &Admitted,
        prefetch: &[Key],
        token: Option<&Token>,
        draft: &mut Draft,
    ) -> Result<Fetched, Error> {
        let mut keys = prefetch.to_vec();
        keys.extend(token.map(|token| token.key.clone()));
        let known = &*draft;
        let change = |txn: &mut Txn| {
            if let Some(token) = token {
                let mut cx = self.context(txn, &admitted.caller, arrival);
                if let Some(reply) = token.replay(&*admitted.call, &mut cx)? {
                    return if admitted.call.dry_run() { Err(dry_run()) } else { Ok((Fetched::Done(reply), false)) };
                }
            }
            let done = self.run_if_fetched(arrival, admitted, txn, prefetch)?;
            if let Fetched::Done(reply) = &done {
                if admitted.call.dry_run() {
                    return Err(dry_run());
                }
                if let Some(token) = token {
                    let mut cx = self.context(txn, &admitted.caller, arrival);
                    token.keep(&mut cx, reply)?;
                }
                txn.outbox(terroir_audit::STREAM, self.audit_record(arrival, admitted, known));
            }
            let recorded = matches!(done, Fetched::Done(_));
            Ok((done, recorded))
        };
        let ((done, recorded), _) = self.0.parts.store.transact(&keys, change).await?;
        draft.recorded = recorded;
        Ok(done)
    }

    /// The record of a change that is being made.
    fn audit_record(&self, arrival: &Arrival<'_>, admitted: &Admitted, draft: &Draft) -> Vec<u8> {
        let event = terroir_audit::Event {
            caller: Some(&admitted.caller),
            claimed_key: None,
            facts: arrival.facts,
            service: arrival.service.signing_name(),
            action: admitted.entry.name(),
            request_id: arrival.request_id,
            resources: draft.resources.iter().collect(),
            parameters: draft.parameters.as_ref(),
            outcome: terroir_audit::Outcome::Done,
            read_only: false,
            is_data: false,
            took: arrival.started.elapsed(),
        };
        event.to_json(&*self.0.parts.ids)
    }

    async fn run_live(&self, arrival: &Arrival<'_>, admitted: &Admitted, draft: &mut Draft) -> Result<Reply, Error> {
        if admitted.call.dry_run() {
            return Err(dry_run());
        }
        let parts = &self.0.parts;
        let cx = LiveContext {
            store: &parts.store,
            caller: &admitted.caller,
            clock: &parts.clock,
            ids: &*parts.ids,
            region: &arrival.region,
            request_id: arrival.request_id,
        };
        let reply = admitted.call.run_live(cx).await?;
        if admitted.entry.access() == Access::Write {
            let record = self.audit_record(arrival, admitted, draft);
            let write = |txn: &mut Txn| {
                txn.outbox(terroir_audit::STREAM, record.clone());
                Ok(())
            };
            parts.store.transact(&[], write).await?;
            draft.recorded = true;
        }
        Ok(reply)
    }
}

/// An action's name as somebody sent it, safe to be repeated.
fn shown(action: &str) -> String {
    action.chars().filter(char::is_ascii_alphanumeric).take(128).collect()
}

fn dry_run() -> Error {
    let message = "Request would have succeeded, but DryRun flag is set.";
    Error::new(ErrorClass::DryRun, "DryRunOperation", message)
}

const TARGET: &str = "x-amz-target";

/// What the header `X-Amz-Target` names.
pub(crate) fn target(parts: &request::Parts) -> Option<&str> {
    parts.headers.get(TARGET).and_then(|value| value.to_str().ok())
}

/// The service of the credential scope, even of a header that cannot be read otherwise; of an unsigned request, of the
/// target or API version that it names.
fn service_of(presented: Option<&Presented>, parts: &request::Parts, body: &[u8]) -> Service {
    let header = parts.headers.get(http::header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let scope = header.and_then(|text| text.split_once("/aws4_request")?.0.rsplit('/').next());
    let signed_for = presented.map(|presented| presented.scope.service.as_str()).or(scope);
    if let Some(service) = signed_for.and_then(Service::from_signing_name) {
        return service;
    }
    if let Some((service, _)) = target(parts).and_then(Service::of_target) {
        return service;
    }
    let query = parts.uri.query().unwrap_or_default().as_bytes();
    let mut pairs = query.split(|byte| *byte == b'&').chain(body.split(|byte| *byte == b'&'));
    let version = pairs.find_map(|pair| pair.strip_prefix(b"Version="));
    Service::ALL.into_iter().find(|service| version == Some(service.api_version().as_bytes())).unwrap_or(Service::Ec2)
}

fn arrival(sent: Sent<'_>, region: Arc<Region>) -> Result<Arrival<'_>, Failure> {
    let Sent { service, parts, body, facts, request_id, started } = sent;
    let read = || -> Result<(Params, Vec<(String, String)>), Error> {
        let params = read_params(service, parts, body)?;
        if service.speaks_json() {
            let pairs =
                params.content().into_iter().map(|(name, value)| (name.to_owned(), value.into_owned())).collect();
            return Ok((params, pairs));
        }
        let text = std::str::from_utf8(body).map_err(|_| not_utf8())?;
        let query = parts.uri.query().unwrap_or_default();
        let pairs = query.split('&').chain(text.split('&')).filter(|pair| !pair.is_empty());
        let split = |pair: &str| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (name.to_owned(), value.to_owned())
        };
        let mut pairs: Vec<_> = pairs.map(split).collect();
        pairs.sort();
        Ok((params, pairs))
    };
    let (params, pairs) = read().map_err(|error| Failure::of(service, &error))?;
    Ok(Arrival { service, facts, request_id, started, region, pairs, params })
}

/// Errors: those of the decoder; `UnknownOperationException` for a target that is not the service's.
fn read_params(service: Service, parts: &request::Parts, body: &[u8]) -> Result<Params, Error> {
    if !service.speaks_json() {
        let query = parts.uri.query().unwrap_or_default();
        return Params::parse(query, body).map_err(|error| error.into_error(service));
    }
    match target(parts).and_then(Service::of_target).filter(|(of, _)| *of == service) {
        Some((_, action)) => Params::parse_json(action, body).map_err(|error| error.into_error(service)),
        None => Err(Error::invalid("UnknownOperationException", "The request names no operation of this service.")),
    }
}

fn not_utf8() -> Error {
    Error::invalid("MalformedQueryString", "The request is not UTF-8.")
}
