// SPDX-License-Identifier: MIT OR Apache-2.0
//! HTTP on the daemon's socket. A call becomes a message to the controller and its answer JSON. Callers are told apart by what the
//! kernel says of them; those who say nothing, too much, or connect too often are cut off.

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{anyhow, Context as _};
use axum::body::{Body, Bytes};
use axum::extract::rejection::QueryRejection;
use axum::extract::{DefaultBodyLimit, FromRequest as _, Path as InPath, Query, Request, State};
use axum::http::{header, HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post, put};
use axum::{Extension, Router};
use futures_util::stream;
use gpreempt_common::{agent, hint};
use hyper::server::conn::http1;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::oneshot;

use super::access::Caller;
use super::api::{HintBegin, Problem, Register, SetPolicy, Whom};
use super::calls::{Ask, Refusal};
use super::controller::{Controller, Message, Seat};
use super::desk::Desk;
use super::frames::Frames;
use super::metrics::Metrics;
use super::openapi;
use crate::event::Pid;

/// Connections at once, of everybody and of one user who is not root.
const CONNECTIONS: usize = 512;
const CONNECTIONS_OF_USER: usize = 128;

/// A caller that has not said what it wants by then, or says nothing more, is cut off.
const HEAD_WITHIN: Duration = Duration::from_secs(60);

/// A call that the controller does not answer is given up then.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// Likewise one whose body does not arrive.
const CALL_WITHIN: Duration = Duration::from_secs(60);

/// Longest body.
const BODY_BYTES: usize = 64 << 10;

/// Lines of the audit log that are told if nothing else is asked for.
const LAST: usize = 100;

#[derive(Clone)]
pub(super) struct Api {
    seat: Seat,
    metrics: Arc<Metrics>,
    desk: Desk,
    /// Those that give hints in frames.
    services: Crowd,
}

/// How a refusal is told.
pub(super) fn status(refusal: Refusal) -> (StatusCode, String) {
    match refusal {
        Refusal::Denied(why) => (StatusCode::FORBIDDEN, why),
        Refusal::NotFound(why) => (StatusCode::NOT_FOUND, why),
        Refusal::Wrong(why) => (StatusCode::UNPROCESSABLE_ENTITY, why),
        Refusal::Busy(why) => (StatusCode::SERVICE_UNAVAILABLE, why),
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let (status, error) = status(self);
        problem(status, error)
    }
}

fn problem(status: StatusCode, error: String) -> Response {
    (status, json(&Problem { error })).into_response()
}

fn json(body: &impl Serialize) -> Response {
    match serde_json::to_vec(body) {
        Ok(mut body) => {
            body.push(b'\n');
            typed("application/json", body)
        }
        Err(e) => (StatusCode::INTERNAL_SERVER_ERROR, e.to_string()).into_response(),
    }
}

fn typed(media: &'static str, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media));
    response
}

impl Api {
    pub(super) fn new(seat: Seat, metrics: Arc<Metrics>, desk: Desk) -> Self {
        Self {
            seat,
            metrics,
            desk,
            services: Crowd::default(),
        }
    }

    fn hints_changed(&self) -> Result<(), Refusal> {
        self.seat.send(Message::Hints).map_err(|_| ends())
    }

    /// Has the controller do something, which answers through the channel that it is given.
    async fn tell<T: Send + 'static>(
        &self,
        call: impl FnOnce(&mut Controller, oneshot::Sender<Result<T, Refusal>>) + Send + 'static,
    ) -> Result<T, Refusal> {
        let (reply, answer) = oneshot::channel();
        let message = Message::Call(Box::new(move |controller| call(controller, reply)));
        self.seat.send(message).map_err(|_| ends())?;
        match tokio::time::timeout(ANSWER_WITHIN, answer).await {
            Ok(answered) => answered.map_err(|_| ends())?,
            Err(_) => Err(no_answer()),
        }
    }

    /// As [`Api::tell`], answered at once.
    async fn ask<T: Serialize + Send + 'static>(
        &self,
        call: impl FnOnce(&mut Controller) -> Result<T, Refusal> + Send + 'static,
    ) -> Response {
        // The caller may have given up meanwhile.
        let asked = self.tell(move |controller, reply| drop(reply.send(call(controller))));
        answer(asked.await)
    }
}

fn no_answer() -> Refusal {
    Refusal::Busy(format!(
        "the daemon has been waiting for a GPU for {} s",
        ANSWER_WITHIN.as_secs()
    ))
}

pub(super) fn ends() -> Refusal {
    Refusal::Busy("the daemon is ending".to_owned())
}

fn answer<T: Serialize>(answer: Result<T, Refusal>) -> Response {
    match answer {
        Ok(body) => json(&body),
        Err(refusal) => refusal.into_response(),
    }
}

/// A body in JSON, whatever it says that it is: `curl -d` says something else. An empty one is an empty object.
fn read<T: DeserializeOwned>(body: &Bytes) -> Result<T, Refusal> {
    let body: &[u8] = if body.is_empty() { b"{}" } else { body };
    serde_json::from_slice(body)
        .map_err(|e| Refusal::Wrong(format!("the body is not understood: {e}")))
}

fn number<T: FromStr>(text: &str) -> Result<T, Refusal> {
    let wrong = |_| Refusal::Wrong(format!("{text:?} is no number that can stand here"));
    text.parse().map_err(wrong)
}

type Who = Extension<Caller>;

async fn hint_begin(State(api): State<Api>, Extension(who): Who, body: Bytes) -> Response {
    let asked: HintBegin = match read(&body) {
        Ok(asked) => asked,
        Err(refusal) => return refusal.into_response(),
    };
    let begun = match api.desk.begin(who, &asked) {
        Ok(begun) => begun,
        Err(refusal) => return refusal.into_response(),
    };
    if !asked.wait {
        return answer(api.hints_changed().map(|()| begun));
    }
    let held = api.tell(move |controller, reply| {
        controller.after(Box::new(move |_| drop(reply.send(Ok(begun)))));
    });
    answer(held.await)
}

async fn hint_end(
    State(api): State<Api>,
    Extension(who): Who,
    InPath(id): InPath<String>,
) -> Response {
    let ended = number(&id).and_then(|id| api.desk.end(who, id));
    answer(ended.and_then(|ended| api.hints_changed().map(|()| ended)))
}

async fn ask(api: Api, who: Caller, ask: Ask, body: Bytes) -> Response {
    let whom: Whom = match read(&body) {
        Ok(whom) => whom,
        Err(refusal) => return refusal.into_response(),
    };
    let asked = api.tell(
        move |controller, reply| match controller.ask(who, ask, &whom) {
            Ok(jobs) => controller.after(Box::new(move |controller| {
                drop(reply.send(Ok(controller.asked(ask, jobs))));
            })),
            Err(refusal) => drop(reply.send(Err(refusal))),
        },
    );
    answer(asked.await)
}

/// Of `GET /v1/audit`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct AuditQuery {
    last: Option<usize>,
    #[serde(default)]
    follow: bool,
}

async fn audit(
    State(api): State<Api>,
    Extension(who): Who,
    asked: Result<Query<AuditQuery>, QueryRejection>,
) -> Response {
    let Query(asked) = match asked {
        Ok(asked) => asked,
        Err(wrong) => return Refusal::Wrong(wrong.body_text()).into_response(),
    };
    let last = asked.last.unwrap_or(LAST);
    let read =
        api.tell(move |controller, reply| drop(reply.send(controller.read_audit(who, last))));
    let (lines, to_come) = match read.await {
        Ok(read) => read,
        Err(refusal) => return refusal.into_response(),
    };
    let text = lines.concat();
    if !asked.follow {
        return typed("application/x-ndjson", text);
    }
    let rest = stream::unfold((Some(text), to_come), |(text, mut to_come)| async move {
        if let Some(text) = text {
            return Some((Ok::<_, Infallible>(Bytes::from(text)), (None, to_come)));
        }
        let bytes = match to_come.recv().await {
            Ok(line) => Bytes::copy_from_slice(line.as_bytes()),
            Err(RecvError::Lagged(lines)) => super::audit::behind(lines).into(),
            Err(RecvError::Closed) => return None,
        };
        Some((Ok(bytes), (None, to_come)))
    });
    typed("application/x-ndjson", Body::from_stream(rest))
}

async fn metrics(State(api): State<Api>, Extension(who): Who) -> Response {
    let may = api.tell(move |controller, reply| drop(reply.send(controller.may_read(who))));
    match may.await {
        Ok(()) => metrics_text(&api.metrics),
        Err(refusal) => refusal.into_response(),
    }
}

fn metrics_text(metrics: &Metrics) -> Response {
    typed(
        "application/openmetrics-text; version=1.0.0; charset=utf-8",
        metrics.text(),
    )
}

/// A job connects that `gpreempt run` started: it says what it is, as to `POST /v1/jobs`, and the connection becomes that of its agent.
async fn agent_connects(
    State(api): State<Api>,
    Extension(who): Who,
    mut request: Request,
) -> Response {
    let upgraded = match upgrade(&mut request, agent::PROTOCOL) {
        Ok(upgraded) => upgraded,
        Err(otherwise) => return otherwise,
    };
    let body = match Bytes::from_request(request, &()).await {
        Ok(body) => body,
        Err(rejection) => return rejection.into_response(),
    };
    let asked: Register = match read(&body) {
        Ok(asked) => asked,
        Err(refusal) => return refusal.into_response(),
    };
    let registered =
        api.tell(move |controller, reply| drop(reply.send(controller.register_agent(who, &asked))));
    let (agents, pid, start_ticks) = match registered.await {
        Ok(registered) => registered,
        Err(refusal) => return refusal.into_response(),
    };
    tokio::spawn(async move {
        if let Some(stream) = raw(upgraded).await {
            agents.add(pid, start_ticks, stream);
        }
    });
    switching(agent::PROTOCOL)
}

/// A service connects to give hints in frames.
async fn hint_frames(
    State(api): State<Api>,
    Extension(who): Who,
    mut request: Request,
) -> Response {
    let upgraded = match upgrade(&mut request, hint::PROTOCOL) {
        Ok(upgraded) => upgraded,
        Err(otherwise) => return otherwise,
    };
    let Some(place) = api.services.enter(who.uid) else {
        return Refusal::Busy("too many services give hints".to_owned()).into_response();
    };
    let frames = Frames {
        own: who.pid.and_then(|pid| api.desk.started(pid)),
        caller: who,
        desk: api.desk,
        seat: api.seat,
    };
    tokio::spawn(async move {
        if let Some(stream) = raw(upgraded).await {
            // Out of threads: the service sees the connection end.
            let _ = frames.start(stream, place);
        }
    });
    switching(hint::PROTOCOL)
}

/// The connection of a caller that asks for this protocol.
#[allow(clippy::result_large_err)] // An answer is an answer.
fn upgrade(request: &mut Request, protocol: &str) -> Result<OnUpgrade, Response> {
    let asks_for = request.headers().get(header::UPGRADE);
    if asks_for.is_none_or(|value| value.as_bytes() != protocol.as_bytes()) {
        return Err(problem(
            StatusCode::UPGRADE_REQUIRED,
            format!("this is for programs that ask for an upgrade to {protocol}"),
        ));
    }
    Ok(hyper::upgrade::on(request))
}

/// The socket below, if nothing has been said on it yet: neither protocol begins before the answer. Of one that breaks nothing is known later.
async fn raw(upgraded: OnUpgrade) -> Option<std::os::unix::net::UnixStream> {
    let parts = upgraded
        .await
        .ok()?
        .downcast::<TokioIo<UnixStream>>()
        .ok()?;
    let stream = parts.io.into_inner().into_std().ok()?;
    parts.read_buf.is_empty().then_some(stream)
}

fn switching(protocol: &'static str) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static(protocol));
    response
}

async fn in_time(request: Request, next: Next) -> Response {
    match tokio::time::timeout(CALL_WITHIN, next.run(request)).await {
        Ok(response) => response,
        Err(_) => problem(
            StatusCode::REQUEST_TIMEOUT,
            format!("the call did not arrive within {} s", CALL_WITHIN.as_secs()),
        ),
    }
}

/// Every call there is; [`openapi`] describes the same.
fn router(api: Api) -> Router {
    Router::new()
        .route(
            "/v1/status",
            get(|State(api): State<Api>, Extension(who): Who| async move {
                api.ask(move |controller| controller.status(who)).await
            }),
        )
        .route(
            "/v1/jobs",
            get(|State(api): State<Api>, Extension(who): Who| async move {
                api.ask(move |controller| controller.list_jobs(who)).await
            })
            .post(
                |State(api): State<Api>, Extension(who): Who, body: Bytes| async move {
                    match read::<Register>(&body) {
                        Ok(asked) => {
                            api.ask(move |controller| controller.register(who, &asked))
                                .await
                        }
                        Err(refusal) => refusal.into_response(),
                    }
                },
            ),
        )
        .route(agent::PATH, post(agent_connects))
        .route(hint::PATH, post(hint_frames))
        .route(
            "/v1/queues",
            get(|State(api): State<Api>, Extension(who): Who| async move {
                api.ask(move |controller| controller.list_queues(who)).await
            }),
        )
        .route(
            "/v1/config",
            get(|State(api): State<Api>, Extension(who): Who| async move {
                api.ask(move |controller| controller.config(who)).await
            }),
        )
        .route(
            "/v1/explain/{pid}",
            get(
                |State(api): State<Api>, Extension(who): Who, InPath(pid): InPath<String>| async move {
                    match number(&pid) {
                        Ok(pid) => api.ask(move |controller| controller.explain(who, Pid(pid))).await,
                        Err(refusal) => refusal.into_response(),
                    }
                },
            ),
        )
        .route("/v1/hints", post(hint_begin))
        .route(
            "/v1/hints/{id}",
            delete(hint_end),
        )
        .route(
            "/v1/hold",
            post(|State(api): State<Api>, Extension(who): Who, body: Bytes| {
                ask(api, who, Ask::Hold, body)
            }),
        )
        .route(
            "/v1/resume",
            post(|State(api): State<Api>, Extension(who): Who, body: Bytes| {
                ask(api, who, Ask::Resume, body)
            }),
        )
        .route(
            "/v1/free",
            post(|State(api): State<Api>, Extension(who): Who, body: Bytes| {
                ask(api, who, Ask::Free, body)
            }),
        )
        .route(
            "/v1/policy",
            put(
                |State(api): State<Api>, Extension(who): Who, body: Bytes| async move {
                    match read::<SetPolicy>(&body) {
                        Ok(asked) => {
                            api.ask(move |controller| controller.set_policy(who, asked))
                                .await
                        }
                        Err(refusal) => refusal.into_response(),
                    }
                },
            ),
        )
        .route(
            "/v1/reload",
            post(|State(api): State<Api>, Extension(who): Who| async move {
                api.ask(move |controller| controller.read_again(who)).await
            }),
        )
        .route(
            "/v1/go-on",
            post(|State(api): State<Api>, Extension(who): Who| async move {
                api.ask(move |controller| controller.go_on(who)).await
            }),
        )
        .route("/v1/audit", get(audit))
        .route(
            "/v1/openapi.json",
            get(|| async { typed("application/json", openapi::document()) }),
        )
        .route("/metrics", get(metrics))
        .fallback(|| async {
            problem(
                StatusCode::NOT_FOUND,
                "there is no such call; GET /v1/openapi.json lists them".to_owned(),
            )
        })
        .method_not_allowed_fallback(|| async {
            problem(
                StatusCode::METHOD_NOT_ALLOWED,
                "that call has another method; GET /v1/openapi.json lists them".to_owned(),
            )
        })
        .layer(DefaultBodyLimit::max(BODY_BYTES))
        .layer(axum::middleware::from_fn(in_time))
        .with_state(api)
}

/// Binds the socket. Whoever may connect is told apart later, call by call.
pub(super) fn bind(path: &Path) -> anyhow::Result<UnixListener> {
    let named = || path.display().to_string();
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)
            .with_context(|| format!("cannot create {}", parent.display()))?;
    }
    let listener = match std::os::unix::net::UnixListener::bind(path) {
        Err(e) if e.kind() == io::ErrorKind::AddrInUse => {
            // That of a daemon that died is left behind.
            if std::os::unix::net::UnixStream::connect(path).is_ok() {
                return Err(anyhow!("a daemon listens on {} already", named()));
            }
            std::fs::remove_file(path).with_context(|| format!("cannot remove {}", named()))?;
            std::os::unix::net::UnixListener::bind(path)
        }
        bound => bound,
    }
    .with_context(|| format!("cannot listen on {}", named()))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666))
        .with_context(|| format!("cannot let others connect to {}", named()))?;
    listener.set_nonblocking(true).context("O_NONBLOCK")?;
    UnixListener::from_std(listener).with_context(|| format!("cannot listen on {}", named()))
}

/// Who is connected.
#[derive(Clone, Default)]
struct Crowd(Arc<Mutex<HashMap<u32, usize>>>);

/// A place in it.
struct Place(Crowd, u32);

impl Crowd {
    fn enter(&self, uid: u32) -> Option<Place> {
        let mut of = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let all: usize = of.values().sum();
        let own = of.entry(uid).or_default();
        // Root gets in whoever else is there.
        let room = uid == 0 || (all < CONNECTIONS && *own < CONNECTIONS_OF_USER);
        room.then(|| {
            *own += 1;
            Place(self.clone(), uid)
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut of = self.0 .0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = of.get_mut(&self.1) {
            *own = own.saturating_sub(1);
            if *own == 0 {
                of.remove(&self.1);
            }
        }
    }
}

/// Serves the socket for ever.
pub(super) async fn serve(listener: UnixListener, api: Api) {
    let crowd = Crowd::default();
    let router = router(api);
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Out of descriptors: those who leave make room.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let Some((caller, place)) =
            caller(&stream).and_then(|who| Some((who, crowd.enter(who.uid)?)))
        else {
            continue;
        };
        let router = router.clone().layer(Extension(caller));
        tokio::spawn(connection(stream, router, place));
    }
}

fn caller(stream: &UnixStream) -> Option<Caller> {
    let credentials = stream.peer_cred().ok()?;
    Some(Caller {
        uid: credentials.uid(),
        gid: credentials.gid(),
        pid: credentials
            .pid()
            .and_then(|pid| u32::try_from(pid).ok())
            .and_then(Pid::known),
    })
}

/// Until either side ends it; then there is room for another.
async fn connection<S>(stream: S, router: Router, _place: Place)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    // One that breaks is nobody's loss.
    let _ = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WITHIN)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
        .with_upgrades()
        .await;
}

/// Serves `/metrics` to everybody on this host, and nothing else.
pub(super) async fn serve_metrics(listener: TcpListener, metrics: Arc<Metrics>) {
    let router = Router::new().route(
        "/metrics",
        get(move || {
            let text = metrics_text(&metrics);
            async move { text }
        }),
    );
    let crowd = Crowd::default();
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        // Nobody in particular.
        let Some(place) = crowd.enter(u32::MAX) else {
            continue;
        };
        let router = router.clone();
        tokio::spawn(connection(stream, router, place));
    }
}
