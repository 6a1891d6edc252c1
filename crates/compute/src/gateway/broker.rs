use async_trait::async_trait;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use terroir_agent_api::{HostQuery, QueryAnswer, QueryKind};
use terroir_types::{Error, HostId};
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

/// Asks hosts what only they know now.
#[async_trait]
pub trait HostQueries: Send + Sync {
    /// Errors: `Unavailable` if the host does not answer in time or too many questions are open.
    async fn ask(&self, host: HostId, kind: QueryKind) -> Result<QueryAnswer, Error>;
}

/// Open questions of one host.
const MOST_OPEN: usize = 64;

struct Open {
    host: HostId,
    kind: QueryKind,
    delivered: bool,
    answer: oneshot::Sender<QueryAnswer>,
}

/// Questions waiting for their hosts to fetch and answer them. In memory: a question does not outlive its asker.
pub struct QueryBroker {
    open: Mutex<(u64, HashMap<u64, Open>)>,
    bell: Notify,
    deadline: Duration,
}

impl Default for QueryBroker {
    fn default() -> Self {
        Self::new(Duration::from_secs(15))
    }
}

/// Takes a question back when its asker stops waiting, for whatever reason.
struct Withdraw<'a>(&'a QueryBroker, u64);

impl Drop for Withdraw<'_> {
    fn drop(&mut self) {
        self.0.lock().1.remove(&self.1);
    }
}

impl QueryBroker {
    /// `deadline`: how long an asker waits.
    pub fn new(deadline: Duration) -> Self {
        Self { open: Mutex::new((0, HashMap::new())), bell: Notify::new(), deadline }
    }

    fn lock(&self) -> MutexGuard<'_, (u64, HashMap<u64, Open>)> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Questions that `host` has not been told yet; waits up to `wait` for one.
    pub async fn next(&self, host: HostId, wait: Duration) -> Vec<HostQuery> {
        let until = Instant::now() + wait;
        loop {
            let rung = self.bell.notified();
            tokio::pin!(rung);
            rung.as_mut().enable();
            let queries = self.take(host);
            if !queries.is_empty() {
                return queries;
            }
            if tokio::time::timeout_at(until, rung).await.is_err() {
                return Vec::new();
            }
        }
    }

    fn take(&self, host: HostId) -> Vec<HostQuery> {
        let mut guard = self.lock();
        let mut queries: Vec<HostQuery> = guard
            .1
            .iter_mut()
            .filter(|(_, open)| open.host == host && !open.delivered)
            .map(|(id, open)| {
                open.delivered = true;
                HostQuery { id: *id, kind: open.kind.clone() }
            })
            .collect();
        queries.sort_by_key(|query| query.id);
        queries
    }

    /// False if nobody waits for it (any more), or another host was asked.
    pub fn answer(&self, host: HostId, query: u64, answer: QueryAnswer) -> bool {
        let mut guard = self.lock();
        if guard.1.get(&query).is_none_or(|open| open.host != host) {
            return false;
        }
        guard.1.remove(&query).is_some_and(|open| open.answer.send(answer).is_ok())
    }
}

#[async_trait]
impl HostQueries for QueryBroker {
    async fn ask(&self, host: HostId, kind: QueryKind) -> Result<QueryAnswer, Error> {
        let (answer, answered) = oneshot::channel();
        let id = {
            let mut guard = self.lock();
            if guard.1.values().filter(|open| open.host == host).count() >= MOST_OPEN {
                return Err(Error::unavailable("Too many questions to the host are open. Try again later."));
            }
            guard.0 += 1;
            let id = guard.0;
            guard.1.insert(id, Open { host, kind, delivered: false, answer });
            id
        };
        let _withdraw = Withdraw(self, id);
        self.bell.notify_waiters();
        match tokio::time::timeout(self.deadline, answered).await {
            Ok(Ok(answer)) => Ok(answer),
            _ => Err(Error::unavailable("The instance's host does not answer. Try again later.")
                .with_internal(format!("host {host} left a question unanswered for {:?}", self.deadline))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use terroir_types::{InstanceId, ResourceId, SeededRandom};

    #[tokio::test]
    async fn a_question_goes_to_its_host_once_and_comes_back() {
        let ids = SeededRandom::new(1);
        let (here, elsewhere) = (HostId::generate(&ids), HostId::generate(&ids));
        let kind = QueryKind::ConsoleOutput { instance: InstanceId::generate(&ids) };
        let broker = Arc::new(QueryBroker::new(Duration::from_secs(20)));
        let asker = tokio::spawn({
            let (broker, kind) = (Arc::clone(&broker), kind.clone());
            async move { broker.ask(here, kind).await }
        });
        let queries = broker.next(here, Duration::from_secs(20)).await;
        assert_eq!(queries.len(), 1);
        assert_eq!(queries[0].kind, kind);
        assert!(broker.next(here, Duration::ZERO).await.is_empty(), "it is told once");
        assert!(broker.next(elsewhere, Duration::ZERO).await.is_empty());
        assert!(!broker.answer(elsewhere, queries[0].id, QueryAnswer::NotRunning), "another host cannot answer");
        assert!(broker.answer(here, queries[0].id, QueryAnswer::NotRunning));
        assert!(!broker.answer(here, queries[0].id, QueryAnswer::NotRunning), "the second answer finds nobody");
        assert_eq!(asker.await.unwrap().unwrap(), QueryAnswer::NotRunning);
    }

    #[tokio::test]
    async fn silence_ends_at_the_deadline_and_questions_are_bounded() {
        let broker = QueryBroker::new(Duration::from_millis(1));
        let ids = SeededRandom::new(1);
        let host = HostId::generate(&ids);
        let kind = QueryKind::ConsoleOutput { instance: InstanceId::generate(&ids) };
        assert_eq!(broker.ask(host, kind.clone()).await.unwrap_err().code(), "Unavailable");
        assert!(broker.lock().1.is_empty(), "a question does not outlive its asker");
        let patient = QueryBroker::new(Duration::from_secs(3600));
        let mut asking: Vec<_> = (0..MOST_OPEN).map(|_| patient.ask(host, kind.clone())).collect();
        for question in &mut asking {
            assert!(futures_poll(question).is_none());
        }
        let Some(Err(error)) = futures_poll(&mut patient.ask(host, kind)) else { panic!("it waits") };
        assert_eq!(error.code(), "Unavailable");
    }

    fn futures_poll<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        match std::pin::Pin::new(future).poll(&mut context) {
            std::task::Poll::Ready(output) => Some(output),
            std::task::Poll::Pending => None,
        }
    }
}
