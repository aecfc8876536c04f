// SPDX-License-Identifier: MIT OR Apache-2.0
//! A client of the daemon's socket: one connection, kept open, one call at a time.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::anyhow;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use serde::Serialize;
use tokio::net::UnixStream;
use tokio::runtime::Runtime;

use super::api::Problem;

/// How long an answer may take. A call that has queues stopped waits for the GPU.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// Longest body of an answer that is read.
const MOST_BYTES: usize = 64 << 20;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens there.
    #[error("no daemon at {}: {error}; is `gpreempt serve` running?", .socket.display())]
    NoDaemon {
        /// Where.
        socket: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The daemon refuses this user.
    #[error("{0}")]
    Denied(String),
    /// The daemon does not know what the call names.
    #[error("{0}")]
    NotFound(String),
    /// The daemon does not understand the call, or refuses it.
    #[error("{0}")]
    Refused(String),
    /// The connection broke, or the answer is none.
    #[error("{0:#}")]
    Failed(#[from] anyhow::Error),
}

impl ClientError {
    pub(super) fn of_connect(socket: &Path, error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::PermissionDenied => {
                Self::Denied(format!("no permission to connect to {}", socket.display()))
            }
            _ => Self::NoDaemon {
                socket: socket.to_owned(),
                error,
            },
        }
    }
}

/// A connection to the daemon, made by the first call and made anew after one that failed.
#[derive(Debug)]
pub struct Client {
    runtime: Runtime,
    socket: PathBuf,
    sender: Option<SendRequest<Full<Bytes>>>,
}

impl Client {
    /// Of the daemon that listens there. Does not connect yet.
    ///
    /// # Errors
    /// The kernel is out of descriptors.
    pub fn new(socket: &Path) -> io::Result<Self> {
        Ok(Self {
            runtime: tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?,
            socket: socket.to_owned(),
            sender: None,
        })
    }

    /// `GET`.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn get<T: DeserializeOwned>(&mut self, path: &str) -> Result<T, ClientError> {
        self.call(Method::GET, path, None::<&()>)
    }

    /// `POST`.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn post<T: DeserializeOwned>(
        &mut self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, ClientError> {
        self.call(Method::POST, path, Some(body))
    }

    /// `PUT`.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn put<T: DeserializeOwned>(
        &mut self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, ClientError> {
        self.call(Method::PUT, path, Some(body))
    }

    /// `DELETE`.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn delete<T: DeserializeOwned>(&mut self, path: &str) -> Result<T, ClientError> {
        self.call(Method::DELETE, path, None::<&()>)
    }

    fn call<T: DeserializeOwned>(
        &mut self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<T, ClientError> {
        let body = match body {
            Some(body) => serde_json::to_vec(body).map_err(|e| anyhow!(e))?,
            None => Vec::new(),
        };
        let answer = self.answer(&method, path, body.into())?;
        let body = self.runtime.block_on(whole(answer))?;
        serde_json::from_slice(&body)
            .map_err(|e| ClientError::Failed(anyhow!("the daemon's answer is not understood: {e}")))
    }

    /// `GET` of something that goes on: hands over its pieces as they come, until it ends or `each` returns false.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn follow(
        &mut self,
        path: &str,
        each: &mut dyn FnMut(&[u8]) -> bool,
    ) -> Result<(), ClientError> {
        let mut answer = self.answer(&Method::GET, path, Bytes::new())?.into_body();
        let ended = self.runtime.block_on(async {
            while let Some(frame) = answer.frame().await {
                match frame {
                    Ok(frame) if frame.data_ref().is_some_and(|data| !each(data)) => break,
                    Ok(_) => {}
                    Err(e) => return Err(anyhow!("the daemon broke off: {e}")),
                }
            }
            Ok(())
        });
        // What was not read to its end cannot be used for another call.
        self.sender = None;
        Ok(ended?)
    }

    /// The answer's head, if it is no error. A connection that the daemon has closed meanwhile is made anew, once.
    fn answer(
        &mut self,
        method: &Method,
        path: &str,
        body: Bytes,
    ) -> Result<Response<Incoming>, ClientError> {
        let kept = self.sender.is_some();
        let answer = match self.send(method, path, body.clone()) {
            Err(ClientError::Failed(_)) if kept => self.send(method, path, body),
            answer => answer,
        }?;
        let status = answer.status();
        if status.is_success() {
            return Ok(answer);
        }
        let body = self.runtime.block_on(whole(answer))?;
        let said = match serde_json::from_slice::<Problem>(&body) {
            Ok(problem) => problem.error,
            Err(_) => format!("the daemon answers {status}"),
        };
        Err(match status {
            StatusCode::FORBIDDEN => ClientError::Denied(said),
            StatusCode::NOT_FOUND => ClientError::NotFound(said),
            _ => ClientError::Refused(said),
        })
    }

    fn send(
        &mut self,
        method: &Method,
        path: &str,
        body: Bytes,
    ) -> Result<Response<Incoming>, ClientError> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "gpreempt");
        if !body.is_empty() {
            request = request.header("content-type", "application/json");
        }
        let request = request
            .body(Full::new(body))
            .map_err(|e| ClientError::Failed(anyhow!(e)))?;
        let (socket, kept) = (&self.socket, self.sender.take());
        let (sender, answer) = self.runtime.block_on(async {
            let mut sender = match kept.filter(|sender| !sender.is_closed()) {
                Some(sender) => sender,
                None => connect(socket).await?,
            };
            let answered = tokio::time::timeout(ANSWER_WITHIN, async {
                sender.ready().await?;
                sender.send_request(request).await
            });
            match answered.await {
                Ok(Ok(answer)) => Ok((sender, answer)),
                Ok(Err(e)) => Err(ClientError::Failed(anyhow!("the daemon broke off: {e}"))),
                Err(_) => Err(ClientError::Failed(anyhow!(
                    "the daemon did not answer within {} s",
                    ANSWER_WITHIN.as_secs()
                ))),
            }
        })?;
        self.sender = Some(sender);
        Ok(answer)
    }
}

async fn connect(socket: &Path) -> Result<SendRequest<Full<Bytes>>, ClientError> {
    let stream = UnixStream::connect(socket)
        .await
        .map_err(|error| ClientError::of_connect(socket, error))?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|e| anyhow!("the daemon broke off: {e}"))?;
    // Its errors are told by the call that they break.
    drop(tokio::spawn(connection));
    Ok(sender)
}

async fn whole(answer: Response<Incoming>) -> Result<Bytes, ClientError> {
    let body = http_body_util::Limited::new(answer.into_body(), MOST_BYTES);
    let read = tokio::time::timeout(ANSWER_WITHIN, body.collect()).await;
    match read {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(e)) => Err(ClientError::Failed(anyhow!("the daemon broke off: {e}"))),
        Err(_) => Err(ClientError::Failed(anyhow!("the daemon stopped answering"))),
    }
}
