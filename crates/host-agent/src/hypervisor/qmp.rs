//! QEMU's monitor protocol over a Unix socket: JSON lines, answers matched by id, events to a
//! callback, descriptors by SCM_RIGHTS.

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::io::IoSlice;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, BufReader, Interest};
use tokio::net::UnixStream;
use tokio::net::unix::OwnedReadHalf;
use tokio::sync::oneshot;

const ANSWER_DEADLINE: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QmpError {
    #[error("the monitor's connection is closed")]
    Closed,
    #[error("the monitor did not answer {0} in time")]
    Deadline(String),
    /// QEMU's class and words.
    #[error("{command}: {description}")]
    Refused { command: String, class: String, description: String },
    #[error("monitor: {0}")]
    Io(String),
}

#[derive(Debug, Clone, PartialEq)]
pub struct QmpEvent {
    /// For example `SHUTDOWN`; `CLOSED` when the connection ends.
    pub name: String,
    pub data: Value,
}

type Answer = Result<Value, QmpError>;
type Pending = Arc<Mutex<HashMap<u64, oneshot::Sender<Answer>>>>;

/// A connected monitor in command mode.
#[derive(Debug)]
pub struct Qmp {
    writer: tokio::sync::Mutex<tokio::net::unix::OwnedWriteHalf>,
    pending: Pending,
    next_id: AtomicU64,
    reader: tokio::task::JoinHandle<()>,
}

impl Drop for Qmp {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl Qmp {
    /// Connects and waits for the greeting as long as `deadline`; a QEMU that is still starting
    /// greets when it is up.
    pub async fn connect(
        path: &Path,
        deadline: Duration,
        on_event: impl Fn(QmpEvent) + Send + 'static,
    ) -> Result<Self, QmpError> {
        let greet = async {
            let stream = UnixStream::connect(path).await.map_err(|e| QmpError::Io(e.to_string()))?;
            let (read, writer) = stream.into_split();
            let mut lines = BufReader::new(read);
            let mut greeting = String::new();
            lines.read_line(&mut greeting).await.map_err(|e| QmpError::Io(e.to_string()))?;
            if greeting.is_empty() { Err(QmpError::Closed) } else { Ok((lines, writer)) }
        };
        let greeted = tokio::time::timeout(deadline, greet).await;
        let (lines, writer) = greeted.map_err(|_| QmpError::Deadline("the greeting".to_owned()))??;
        let pending = Pending::default();
        let reader = tokio::spawn(read_lines(lines, Arc::clone(&pending), on_event));
        let writer = tokio::sync::Mutex::new(writer);
        let qmp = Self { writer, pending, next_id: AtomicU64::new(1), reader };
        qmp.execute("qmp_capabilities", json!({})).await?;
        Ok(qmp)
    }

    pub async fn execute(&self, command: &str, arguments: Value) -> Answer {
        self.send(command, arguments, None).await
    }

    /// The descriptor is for a command that takes one, such as `add-fd` and `getfd`.
    pub async fn execute_with(&self, command: &str, arguments: Value, fd: BorrowedFd<'_>) -> Answer {
        self.send(command, arguments, Some(fd)).await
    }

    async fn send(&self, command: &str, arguments: Value, fd: Option<BorrowedFd<'_>>) -> Answer {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let mut line = json!({ "execute": command, "arguments": arguments, "id": id }).to_string();
        line.push('\n');
        let (sender, receiver) = oneshot::channel();
        self.pending.lock().unwrap_or_else(PoisonError::into_inner).insert(id, sender);
        let exchange = async {
            self.write(line.as_bytes(), fd).await.map_err(|e| QmpError::Io(e.to_string()))?;
            receiver.await.map_err(|_| QmpError::Closed)?
        };
        let answer = tokio::time::timeout(ANSWER_DEADLINE, exchange).await;
        self.pending.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
        match answer.map_err(|_| QmpError::Deadline(command.to_owned()))? {
            Err(QmpError::Refused { class, description, .. }) => {
                Err(QmpError::Refused { command: command.to_owned(), class, description })
            }
            other => other,
        }
    }

    async fn write(&self, mut bytes: &[u8], mut fd: Option<BorrowedFd<'_>>) -> std::io::Result<()> {
        let writer = self.writer.lock().await;
        let stream: &UnixStream = writer.as_ref();
        while !bytes.is_empty() {
            let sent = stream
                .async_io(Interest::WRITABLE, || {
                    let raw = fd.map(|fd| [fd.as_raw_fd()]);
                    let rights = raw.as_ref().map(|raw| ControlMessage::ScmRights(raw));
                    let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
                    let control: Vec<_> = rights.into_iter().collect();
                    sendmsg::<()>(stream.as_raw_fd(), &[IoSlice::new(bytes)], &control, flags, None).map_err(Into::into)
                })
                .await?;
            bytes = &bytes[sent..];
            fd = None;
        }
        Ok(())
    }
}

async fn read_lines(mut lines: BufReader<OwnedReadHalf>, pending: Pending, on_event: impl Fn(QmpEvent)) {
    let mut line = String::new();
    loop {
        line.clear();
        match lines.read_line(&mut line).await {
            Ok(0) | Err(_) => break,
            Ok(_) => {}
        }
        let Ok(mut message) = serde_json::from_str::<Value>(&line) else { continue };
        if let Some(name) = message.get("event").and_then(Value::as_str) {
            let name = name.to_owned();
            on_event(QmpEvent { name, data: message["data"].take() });
            continue;
        }
        let waiting = message
            .get("id")
            .and_then(Value::as_u64)
            .and_then(|id| pending.lock().unwrap_or_else(PoisonError::into_inner).remove(&id));
        let Some(waiting) = waiting else { continue };
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let answer = match message.get("error") {
            Some(error) => Err(QmpError::Refused {
                command: String::new(),
                class: text(&error["class"]),
                description: text(&error["desc"]),
            }),
            None => Ok(message["return"].take()),
        };
        // Nobody waits any more after a deadline.
        let _ = waiting.send(answer);
    }
    // Dropping the senders tells everybody who waits.
    pending.lock().unwrap_or_else(PoisonError::into_inner).clear();
    on_event(QmpEvent { name: "CLOSED".to_owned(), data: Value::Null });
}
