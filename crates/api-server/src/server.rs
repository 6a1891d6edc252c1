use axum::body::Body;
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use terroir_action::{CurrentRegion, Registry};
use terroir_audit::{Outcome, Queue};
use terroir_iam::sigv4::Presented;
use terroir_iam::{Iam, RequestFacts};
use terroir_store::Store;
use terroir_types::{AccountId, Arn, Clock, Error, IdSource};

use crate::audit::Draft;
use crate::authenticate::Authenticator;
use crate::failure::REQUEST_ID_HEADER;
use crate::front::{ObjectOutcome, OperatorStatus, RequestId, S3Front};
use crate::idempotency;
use crate::listener::Encrypted;
use crate::metrics::Metrics;
use crate::throttle::{Rate, Throttle};

/// Bounds that protect the server from its clients and clients from each other.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections at a time; more wait in the kernel's queue.
    pub connections: usize,
    /// Bytes of the body of an action's request.
    pub body_bytes: usize,
    /// How long a client may take to send that body.
    pub body_deadline: Duration,
    /// Actions of all classes per account.
    pub actions: Rate,
    /// Of these, those that change something, but for launches.
    pub changes: Rate,
    /// Of these, RunInstances.
    pub launches: Rate,
    /// Object requests per account.
    pub objects: Rate,
    /// Requests per address that fail to authenticate.
    pub failures: Rate,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 4096,
            body_bytes: 1 << 20,
            body_deadline: Duration::from_secs(30),
            actions: Rate { per_second: 2_000, burst: 4_000 },
            changes: Rate { per_second: 1_000, burst: 2_000 },
            launches: Rate { per_second: 200, burst: 400 },
            objects: Rate { per_second: 10_000, burst: 20_000 },
            failures: Rate { per_second: 50, burst: 500 },
        }
    }
}

/// What a server is made of.
pub struct Parts {
    pub store: Store,
    pub iam: Iam,
    pub registry: Registry,
    pub region: CurrentRegion,
    pub clock: Arc<dyn Clock>,
    pub ids: Arc<dyn IdSource>,
    pub objects: Arc<dyn S3Front>,
    pub status: Arc<dyn OperatorStatus>,
    pub limits: Limits,
    /// Where the records of calls go that change nothing here; those of changes go to the outbox
    /// [`terroir_audit::STREAM`].
    pub audit: Queue,
}

/// The endpoint. A cheap handle.
#[derive(Clone)]
pub struct ApiServer(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub parts: Parts,
    pub authenticator: Authenticator,
    pub metrics: Metrics,
    pub accounts: Throttle<AccountId>,
    pub changes: Throttle<AccountId>,
    pub launches: Throttle<AccountId>,
    objects: Throttle<AccountId>,
    pub failures: Throttle<std::net::IpAddr>,
}

/// How often idempotency rows to delete are looked for.
const SWEEP_EVERY: Duration = Duration::from_secs(600);
const S3_REQUEST_ID: HeaderName = HeaderName::from_static("x-amz-request-id");

/// What is known of a request when it is answered, for the log, the metrics and the audit log.
pub(crate) struct Trace {
    pub service: &'static str,
    pub action: &'static str,
    pub account: Option<AccountId>,
    pub code: String,
    pub draft: Draft,
}

impl ApiServer {
    pub fn new(parts: Parts) -> Self {
        let authenticator = Authenticator::new(parts.iam.clone(), parts.region.get().name.clone());
        let limits = &parts.limits;
        Self(Arc::new(Inner {
            authenticator,
            metrics: Metrics::default(),
            accounts: Throttle::new(limits.actions),
            changes: Throttle::new(limits.changes),
            launches: Throttle::new(limits.launches),
            objects: Throttle::new(limits.objects),
            failures: Throttle::new(limits.failures),
            parts,
        }))
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.0.parts.limits
    }

    /// Answers one request; never fails.
    pub async fn handle(&self, request: Request<Body>, peer: SocketAddr) -> Response<Body> {
        let started = Instant::now();
        let _in_flight = self.0.metrics.begin();
        if let Some(response) = self.operator_endpoint(&request, peer) {
            return response;
        }
        let bits = self.0.parts.ids.next_u128();
        let request_id = uuid::Builder::from_random_bytes(bits.to_le_bytes()).into_uuid().to_string();
        let facts = self.facts(&request, peer);
        let (mut head, body) = request.into_parts();
        let (response, trace) = if is_action(&head) {
            Box::pin(self.action(&head, body, &facts, &request_id, started)).await
        } else {
            let (account, claimed) = self.claimed_account(&head);
            head.extensions.insert(RequestId(request_id.clone()));
            head.extensions.insert(facts.clone());
            Box::pin(self.object(Request::from_parts(head, body), account, claimed, &facts, &request_id)).await
        };
        let took = started.elapsed();
        if let Some(event) = trace.event(&facts, &request_id, took) {
            self.0.parts.audit.push(event.to_json(&*self.0.parts.ids));
        }
        self.0.metrics.record(trace.service, trace.action, &trace.code, took);
        tracing::info!(
            target: "terroir::access",
            %request_id,
            %peer,
            account = trace.account.map(tracing::field::display),
            service = trace.service,
            action = trace.action,
            code = trace.code,
            status = response.status().as_u16(),
            micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
        );
        response
    }

    fn facts(&self, request: &Request<Body>, peer: SocketAddr) -> RequestFacts {
        let text = |name| request.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        RequestFacts {
            source_ip: Some(peer.ip().to_canonical()),
            secure: request.extensions().get::<Encrypted>().is_some(),
            now: self.0.parts.clock.now(),
            region: self.0.parts.region.get().name.clone(),
            user_agent: text(header::USER_AGENT),
            referer: text(header::REFERER),
        }
    }

    /// The operator's own endpoints, for unsigned requests only: a bucket may have such a name.
    fn operator_endpoint(&self, request: &Request<Body>, peer: SocketAddr) -> Option<Response<Body>> {
        let unsigned = !request.headers().contains_key(header::AUTHORIZATION) && request.uri().query().is_none();
        if !unsigned || !matches!(*request.method(), Method::GET | Method::HEAD) {
            return None;
        }
        let answer = |status: StatusCode, text: String| {
            let mut response = Response::new(Body::from(text));
            *response.status_mut() = status;
            let kind = HeaderValue::from_static("text/plain; charset=utf-8");
            response.headers_mut().insert(header::CONTENT_TYPE, kind);
            Some(response)
        };
        match request.uri().path() {
            "/healthz" => answer(StatusCode::OK, "ok\n".to_owned()),
            "/readyz" => match self.0.parts.status.ready() {
                Ok(()) => answer(StatusCode::OK, "ready\n".to_owned()),
                Err(reason) => answer(StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
            },
            "/metrics" if peer.ip().to_canonical().is_loopback() => {
                let mut text = String::new();
                self.0.metrics.write(&mut text);
                text.push_str("# TYPE terroir_store_revision gauge\n");
                text.push_str(&format!("terroir_store_revision {}\n", self.0.parts.store.stale().revision()));
                self.0.parts.audit.write_metrics(&mut text);
                self.0.parts.status.metrics(&mut text);
                answer(StatusCode::OK, text)
            }
            _ => None,
        }
    }

    /// `account`: whose key, `claimed`, is presented; nobody has checked the signature yet.
    async fn object(
        &self,
        request: Request<Body>,
        account: Option<AccountId>,
        claimed: Option<String>,
        facts: &RequestFacts,
        request_id: &str,
    ) -> (Response<Body>, Trace) {
        let action = method_name(request.method());
        let read_only = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
        let mut response = match account {
            Some(account) if !self.0.objects.has(&account, facts.now) => slow_down(request_id),
            None if !self.may_fail(facts) => slow_down(request_id),
            _ => self.0.parts.objects.handle(request).await,
        };
        let status = response.status();
        // The account is only claimed until object storage has checked it: what it refused costs the address.
        match account {
            _ if status == StatusCode::FORBIDDEN => {
                self.count_failure(facts);
            }
            Some(account) => {
                self.0.objects.take(&account, facts.now);
            }
            None => {}
        }
        if let Ok(value) = HeaderValue::from_str(request_id) {
            response.headers_mut().insert(S3_REQUEST_ID, value);
        }
        let outcome = response.extensions_mut().remove::<ObjectOutcome>().unwrap_or_default();
        let draft = Draft::of_object(outcome, read_only, status, claimed);
        (response, Trace { service: "s3", action, account, code: status.as_u16().to_string(), draft })
    }

    /// The account of the key that is presented, and its id.
    fn claimed_account(&self, head: &http::request::Parts) -> (Option<AccountId>, Option<String>) {
        let Ok(presented) = Presented::read(head) else { return (None, None) };
        let token = presented.session_token.as_deref();
        let txn = self.0.parts.store.stale();
        let caller = self.0.parts.iam.authenticate_in(&txn, &presented.access_key_id, token).ok();
        (caller.map(|caller| caller.account), Some(presented.access_key_id))
    }

    /// Whether this address may try again after its failures.
    fn may_fail(&self, facts: &RequestFacts) -> bool {
        facts.source_ip.is_none_or(|address| self.0.failures.has(&address, facts.now))
    }

    /// `false`: more failures than the address may have.
    pub(crate) fn count_failure(&self, facts: &RequestFacts) -> bool {
        facts.source_ip.is_none_or(|address| self.0.failures.take(&address, facts.now))
    }

    /// Deletes idempotency rows whose time is over, until `shutdown` comes.
    pub async fn run_background(&self, shutdown: impl Future<Output = ()>) {
        let mut sweep = tokio::time::interval(SWEEP_EVERY);
        tokio::pin!(shutdown);
        loop {
            tokio::select! {
                () = &mut shutdown => return,
                _ = sweep.tick() => {}
            }
            let swept = idempotency::sweep(&self.0.parts.store, self.0.parts.clock.now()).await;
            report("idempotency rows were not deleted", swept);
        }
    }
}

impl Trace {
    /// What goes to the audit log; none if it is there already.
    fn event<'a>(
        &'a self,
        facts: &'a RequestFacts,
        request_id: &'a str,
        took: Duration,
    ) -> Option<terroir_audit::Event<'a>> {
        let draft = &self.draft;
        if draft.recorded {
            return None;
        }
        let code = draft.code.as_deref().unwrap_or(&self.code);
        let outcome = match draft.failed {
            false => Outcome::Done,
            true => Outcome::Refused { code, message: &draft.message },
        };
        let resources: Vec<&Arn> = draft.resources.iter().collect();
        Some(terroir_audit::Event {
            caller: draft.caller.as_ref(),
            claimed_key: draft.claimed_key.as_deref(),
            facts,
            service: self.service,
            action: draft.operation.as_deref().unwrap_or(self.action),
            request_id,
            resources,
            parameters: draft.parameters.as_ref(),
            outcome,
            read_only: draft.read_only,
            is_data: draft.is_data,
            took,
        })
    }
}

fn report(what: &str, done: Result<usize, Error>) {
    if let Err(error) = done {
        tracing::warn!(%error, detail = error.internal_detail(), "{what}");
    }
}

/// Whether a request is for an action, not for an object: by its credential scope, or, unsigned, by its target or form.
fn is_action(head: &http::request::Parts) -> bool {
    match Presented::read(head) {
        Ok(presented) => presented.scope.service != "s3",
        Err(_) => {
            let query = head.uri.query().unwrap_or_default();
            if head.uri.path() == "/" && crate::dispatch::target(head).is_some() {
                return true;
            }
            let names_action = query.split('&').any(|pair| pair.starts_with("Action="));
            let form = head
                .headers
                .get(header::CONTENT_TYPE)
                .is_some_and(|kind| kind.as_bytes().starts_with(b"application/x-www-form-urlencoded"));
            head.uri.path() == "/" && (names_action || (form && head.method == Method::POST))
        }
    }
}

fn method_name(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::PUT => "PUT",
        Method::POST => "POST",
        Method::DELETE => "DELETE",
        _ => "-",
    }
}

fn slow_down(request_id: &str) -> Response<Body> {
    let body = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message><RequestId>{request_id}</RequestId></Error>"
    );
    let mut response = crate::failure::xml_response(StatusCode::SERVICE_UNAVAILABLE, body, request_id);
    response.headers_mut().remove(REQUEST_ID_HEADER);
    response.headers_mut().insert(header::RETRY_AFTER, crate::throttle::RETRY_AFTER);
    response
}
