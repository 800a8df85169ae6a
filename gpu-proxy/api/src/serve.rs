//! The pages: `/metrics`, `/healthz`, `/readyz`.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use nix::errno::Errno;
use proxy_channel::admin::{self, SCHEMA, STATUS_REQUEST, Status};
use proxy_channel::api::FromApi;
use proxy_channel::companion::Message;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::sync::{Mutex, Semaphore};
use tokio::time::timeout;

use crate::confine::{ConfineError, confine};
use crate::{Arguments, metrics};

/// Connections at one time; more wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 32;

/// How long somebody may take to send a request, and its headers.
const HEADERS: Duration = Duration::from_secs(5);

/// How long a connection may last: a scraper connects again.
const CONNECTION: Duration = Duration::from_secs(600);

/// How long what the supervisor said is shown before it is asked again.
const FRESH: Duration = Duration::from_millis(500);

/// Before the next connection is taken where the system has no room for one.
const REST: Duration = Duration::from_millis(100);

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const PLAIN: &str = "text/plain; charset=utf-8";

/// Why it does not serve.
#[derive(Debug, Error)]
pub enum ServeError {
    /// It cannot listen.
    #[error("cannot listen on {0}: {1}")]
    Listen(SocketAddr, io::Error),
    /// The system does not give what it needs.
    #[error("cannot start: {0}")]
    Start(io::Error),
    /// It keeps rights that it should not have.
    #[error(transparent)]
    Confine(#[from] ConfineError),
    /// The channel does not take what it is told.
    #[error("the channel: {0}")]
    Channel(#[from] Errno),
}

/// Serves until the other end of the channel is closed.
///
/// # Errors
/// [`ServeError`].
pub fn run(arguments: &Arguments, channel: BorrowedFd<'_>) -> Result<(), ServeError> {
    let end = channel.try_clone_to_owned().map_err(ServeError::Start)?;
    let listen = |error| ServeError::Listen(arguments.listen, error);
    let listener = std::net::TcpListener::bind(arguments.listen).map_err(listen)?;
    listener.set_nonblocking(true).map_err(listen)?;
    let address = listener.local_addr().map_err(listen)?;
    confine()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .max_blocking_threads(4)
        .build()
        .map_err(ServeError::Start)?;
    let served = runtime.block_on(async {
        let listener = TcpListener::from_std(listener).map_err(ServeError::Start)?;
        FromApi::Listening { address }.send(channel)?;
        let (ended, end_of_channel) = tokio::sync::oneshot::channel();
        std::thread::Builder::new()
            .spawn(move || {
                // Nobody writes to it: what can be read is its end.
                while nix::unistd::read(&end, &mut [0]) == Err(Errno::EINTR) {}
                let _ = ended.send(());
            })
            .map_err(ServeError::Start)?;
        let supervisor = Supervisor {
            socket: arguments.socket.clone(),
            last: Mutex::new(None),
        };
        tokio::spawn(accept(listener, supervisor.into()));
        // The thread says so, or has gone.
        let _ = end_of_channel.await;
        Ok(())
    });
    // An answer of the supervisor's may be waited for; nobody wants it now.
    runtime.shutdown_background();
    served
}

async fn accept(listener: TcpListener, supervisor: Arc<Supervisor>) {
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(seat) = Arc::clone(&room).acquire_owned().await else {
            return;
        };
        let Ok((stream, _)) = listener.accept().await else {
            // Out of descriptors, or the client has gone already.
            tokio::time::sleep(REST).await;
            continue;
        };
        let supervisor = Arc::clone(&supervisor);
        tokio::spawn(async move {
            let pages = service_fn(|request| page(request, Arc::clone(&supervisor)));
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADERS)
                .serve_connection(TokioIo::new(stream), pages);
            // A client that breaks the protocol, or off, is nobody's loss but its own.
            let _ = timeout(CONNECTION, connection).await;
            drop(seat);
        });
    }
}

async fn page(
    request: Request<Incoming>,
    supervisor: Arc<Supervisor>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut reply = reply(StatusCode::METHOD_NOT_ALLOWED, PLAIN, "only GET and HEAD\n");
        let allowed = HeaderValue::from_static("GET, HEAD");
        reply.headers_mut().insert(ALLOW, allowed);
        return Ok(reply);
    }
    Ok(match request.uri().path() {
        "/metrics" => match supervisor.status().await {
            Ok(status) => match metrics::render(&status) {
                Ok(text) => reply(StatusCode::OK, OPEN_METRICS, text),
                Err(error) => reply(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    PLAIN,
                    format!("the metrics cannot be written: {error}\n"),
                ),
            },
            Err(why) => reply(StatusCode::SERVICE_UNAVAILABLE, PLAIN, format!("{why}\n")),
        },
        "/readyz" => match supervisor.status().await {
            Ok(_) => reply(StatusCode::OK, PLAIN, "gpu-proxy serves\n"),
            Err(why) => reply(StatusCode::SERVICE_UNAVAILABLE, PLAIN, format!("{why}\n")),
        },
        "/healthz" => reply(StatusCode::OK, PLAIN, "the api serves\n"),
        _ => reply(
            StatusCode::NOT_FOUND,
            PLAIN,
            "there is /metrics, /readyz and /healthz\n",
        ),
    })
}

fn reply(code: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut reply = Response::new(Full::new(body.into()));
    *reply.status_mut() = code;
    let headers = reply.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    reply
}

/// The supervisor's status, asked for once however many want it: whoever reaches the address could otherwise keep the
/// supervisor busy.
#[derive(Debug)]
struct Supervisor {
    socket: PathBuf,
    last: Mutex<Option<(Instant, Answer)>>,
}

/// What it said, or why it did not.
type Answer = Result<Arc<Status>, Arc<StatusError>>;

impl Supervisor {
    /// What it says, or said a moment ago.
    async fn status(&self) -> Answer {
        // Others wait for the answer that is on its way.
        let mut last = self.last.lock().await;
        if let Some((since, answer)) = &*last
            && since.elapsed() < FRESH
        {
            return answer.clone();
        }
        let socket = self.socket.clone();
        let asked = tokio::task::spawn_blocking(move || ask(&socket)).await;
        let answer = asked.unwrap_or(Err(StatusError::Ended));
        let answer = answer.map(Arc::new).map_err(Arc::new);
        *last = Some((Instant::now(), answer.clone()));
        answer
    }
}

fn ask(socket: &Path) -> Result<Status, StatusError> {
    let answer = admin::ask(socket, STATUS_REQUEST).map_err(|error| StatusError::Ask {
        path: socket.to_owned(),
        error,
    })?;
    let status: Status = serde_json::from_slice(&answer)?;
    match status.schema {
        SCHEMA => Ok(status),
        other => Err(StatusError::Schema(other)),
    }
}

#[derive(Debug, Error)]
enum StatusError {
    #[error("gpu-proxy does not answer at {}: {error}", path.display())]
    Ask { path: PathBuf, error: io::Error },
    #[error("this process is ending")]
    Ended,
    #[error("gpu-proxy's answer is not understood ({0}); install the vgpu-api that matches it")]
    Answer(#[from] serde_json::Error),
    #[error("gpu-proxy answers with schema {0}; install the vgpu-api that matches it")]
    Schema(u32),
}
