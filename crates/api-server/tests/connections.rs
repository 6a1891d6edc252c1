//! The endpoint over real connections: who is slow, who is one too many, and what happens at the end.

mod world;

use std::net::SocketAddr;
use std::time::Duration;
use terroir_api_server::{BindError, bind};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use world::World;

/// Nothing here takes this long unless it is broken.
const DEADLINE: Duration = Duration::from_secs(20);

struct Served {
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    done: JoinHandle<()>,
}

async fn serve(world: &World) -> Served {
    let listener = bind(([127, 0, 0, 1], 0).into()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel();
    let server = world.server.clone();
    let done = tokio::spawn(async move {
        server
            .serve(listener, None, async move {
                let _ = stopped.await;
            })
            .await;
    });
    Served { address, stop, done }
}

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future).await.unwrap_or_else(|_| panic!("{what} did not happen in time"))
}

async fn everything(stream: &mut TcpStream) -> String {
    let mut text = String::new();
    // A reset is an end too.
    let _ = within("the end of the connection", stream.read_to_string(&mut text)).await;
    text
}

#[tokio::test]
async fn a_taken_port_says_so() {
    let first = bind(([127, 0, 0, 1], 0).into()).await.unwrap();
    let taken = first.local_addr().unwrap();
    let error = bind(taken).await.unwrap_err();
    assert!(matches!(error, BindError::InUse(address) if address == taken));
    assert!(error.to_string().contains("--listen"), "{error}");
    let elsewhere = bind(([192, 0, 2, 1], 0).into()).await.unwrap_err();
    assert!(matches!(elsewhere, BindError::NotHere(_)), "{elsewhere}");
}

#[tokio::test]
async fn shutdown_answers_what_has_begun_and_closes_what_idles() {
    let world = World::new().await;
    let served = serve(&world).await;
    let mut idle = TcpStream::connect(served.address).await.unwrap();
    idle.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut start = [0; 12];
    within("the first answer", idle.read_exact(&mut start)).await.unwrap();
    assert_eq!(&start, b"HTTP/1.1 200");

    // The body of an action's request is on its way when the shutdown comes.
    let mut begun = TcpStream::connect(served.address).await.unwrap();
    let head = "POST /?Action=ListUsers&Version=2010-05-08 HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\n";
    begun.write_all(head.as_bytes()).await.unwrap();
    let mut asked = [0; 25];
    within("the server's wish for the body", begun.read_exact(&mut asked)).await.unwrap();
    assert_eq!(&asked, b"HTTP/1.1 100 Continue\r\n\r\n");
    served.stop.send(()).unwrap();
    everything(&mut idle).await;
    begun.write_all(b"a=b").await.unwrap();
    let answer = everything(&mut begun).await;
    assert!(answer.starts_with("HTTP/1.1 403") && answer.contains("MissingAuthenticationToken"), "{answer}");
    within("the end of the server", served.done).await.unwrap();
    assert!(TcpStream::connect(served.address).await.is_err(), "nobody listens any more");
}

#[tokio::test]
async fn a_slow_body_and_one_connection_too_many() {
    let world = World::with_limits(|limits| {
        limits.connections = 1;
        limits.body_deadline = Duration::from_millis(100);
    })
    .await;
    let served = serve(&world).await;
    let mut slow = TcpStream::connect(served.address).await.unwrap();
    slow.write_all(b"POST /?Action=ListUsers HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 9\r\n\r\na")
        .await
        .unwrap();
    let mut second = TcpStream::connect(served.address).await.unwrap();
    second.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
    let answer = everything(&mut slow).await;
    assert!(answer.starts_with("HTTP/1.1 408") && answer.contains("RequestTimeout"), "{answer}");
    let answer = everything(&mut second).await;
    assert!(answer.ends_with("ok\n"), "the second has its turn when the first is gone: {answer}");
    served.stop.send(()).unwrap();
    within("the end of the server", served.done).await.unwrap();
}

#[tokio::test]
async fn headers_without_bound_are_refused() {
    let world = World::new().await;
    let served = serve(&world).await;
    let many = "a: b\r\n".repeat(300);
    let long = format!("a: {}\r\n", "b".repeat(200 * 1024));
    for headers in [many, long] {
        let mut stream = TcpStream::connect(served.address).await.unwrap();
        let request = format!("GET /healthz HTTP/1.1\r\nhost: x\r\n{headers}\r\n");
        // The server may close before it has read everything.
        let _ = stream.write_all(request.as_bytes()).await;
        let answer = everything(&mut stream).await;
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 431") || answer.starts_with("HTTP/1.1 400"),
            "{answer}"
        );
    }
    served.stop.send(()).unwrap();
    within("the end of the server", served.done).await.unwrap();
}

/// Otherwise the first bytes of the next request could be taken for the body.
#[tokio::test]
async fn an_answer_instead_of_100_continue_ends_the_connection() {
    let world = World::new().await;
    let served = serve(&world).await;
    for length in [0, 1] {
        let mut stream = TcpStream::connect(served.address).await.unwrap();
        let head =
            format!("PUT /bucket/key HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: {length}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let answer = everything(&mut stream).await;
        let (head, _) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200") && head.contains("connection: close"), "{answer}");
    }
    let mut stream = TcpStream::connect(served.address).await.unwrap();
    let form = "content-type: application/x-www-form-urlencoded\r\ncontent-length: 16";
    let head = format!("POST / HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\n{form}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut buffer = [0; 25];
    within("100 Continue", stream.read_exact(&mut buffer)).await.unwrap();
    assert!(buffer.starts_with(b"HTTP/1.1 100 Continue"), "{buffer:?}");
    stream.write_all(b"Action=ListUsers").await.unwrap();
    stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
    let answers = everything(&mut stream).await;
    assert!(answers.starts_with("HTTP/1.1 4") && answers.ends_with("ok\n"), "the connection goes on: {answers}");
    served.stop.send(()).unwrap();
    within("the end of the server", served.done).await.unwrap();
}
