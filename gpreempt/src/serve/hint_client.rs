// SPDX-License-Identifier: MIT OR Apache-2.0
//! A client for nothing but hints, as quick as a socket can be: the connection carries frames instead of HTTP.

use std::io::{self, Read as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{anyhow, Context as _};
use gpreempt_common::hint::{Ask, Reply, BEGIN, END, OWN, PATH, PROTOCOL, WAIT};
use nix::sys::socket::{send, MsgFlags};
use zerocopy::{FromZeros as _, IntoBytes as _};

use super::api::{HintBegin, Problem};
use super::client::ClientError;

/// How long an answer may take. A hint that has queues stopped waits for the GPU.
const ANSWER_WITHIN: Duration = Duration::from_secs(31);

/// Longest answer to the first call.
const MOST_BYTES: usize = 8 << 10;

/// A connection to the daemon, made by the first hint and made anew after one that failed. Hints end with the process that made it.
#[derive(Debug)]
pub struct HintClient {
    socket: PathBuf,
    stream: Option<UnixStream>,
}

impl HintClient {
    /// Of the daemon that listens there. Does not connect yet.
    #[must_use]
    pub fn new(socket: &Path) -> Self {
        Self {
            socket: socket.to_owned(),
            stream: None,
        }
    }

    /// Begins a hint: its id. It ends with this process if `asked` names any.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn begin(&mut self, asked: &HintBegin) -> Result<u64, ClientError> {
        self.ask(&Ask {
            kind: BEGIN,
            flags: if asked.wait { WAIT } else { 0 } | if asked.pid.is_some() { OWN } else { 0 },
            id: 0,
            lead_ms: asked.lead_ms,
            expires_ms: asked.expires_ms.unwrap_or(0),
        })
    }

    /// Ends it: how long the work took, in nanoseconds.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn end(&mut self, id: u64) -> Result<u64, ClientError> {
        self.ask(&Ask {
            kind: END,
            id,
            ..Ask::default()
        })
    }

    fn ask(&mut self, ask: &Ask) -> Result<u64, ClientError> {
        loop {
            let (mut stream, kept) = match self.stream.take() {
                Some(stream) => (stream, true),
                None => (connect(&self.socket)?, false),
            };
            match exchange(&mut stream, ask) {
                Ok(answer) => {
                    self.stream = Some(stream);
                    return refused(answer);
                }
                // It may be busy with what was asked.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Err(late().into());
                }
                // That daemon has gone, and what it knew with it; there may be another.
                Err(_) if kept => {}
                Err(error) => return Err(anyhow!(error).context("the daemon broke off").into()),
            }
        }
    }
}

fn late() -> anyhow::Error {
    anyhow!(
        "the daemon did not answer within {} s",
        ANSWER_WITHIN.as_secs()
    )
}

fn refused((reply, text): (Reply, String)) -> Result<u64, ClientError> {
    Err(match reply.status {
        0 => return Ok(reply.value),
        403 => ClientError::Denied(text),
        404 => ClientError::NotFound(text),
        _ => ClientError::Refused(text),
    })
}

/// Writes without SIGPIPE, of which a program dies that is not written in Rust.
fn put(stream: &UnixStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match send(stream.as_raw_fd(), bytes, MsgFlags::MSG_NOSIGNAL) {
            Ok(count) => bytes = &bytes[count..],
            Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn exchange(stream: &mut UnixStream, ask: &Ask) -> io::Result<(Reply, String)> {
    put(stream, ask.as_bytes())?;
    let mut reply = Reply::new_zeroed();
    stream.read_exact(reply.as_mut_bytes())?;
    let mut text = Vec::new();
    stream
        .take(reply.text_bytes.into())
        .read_to_end(&mut text)?;
    if text.len() != reply.text_bytes as usize {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok((reply, String::from_utf8_lossy(&text).into_owned()))
}

fn connect(socket: &Path) -> Result<UnixStream, ClientError> {
    let mut stream =
        UnixStream::connect(socket).map_err(|error| ClientError::of_connect(socket, error))?;
    match upgrade(&mut stream).context("the daemon broke off")? {
        (101, _) => Ok(stream),
        (403, why) => Err(ClientError::Denied(why)),
        (404, _) => Err(ClientError::Refused(
            "the daemon is older than this program, and does not know hints in frames".to_owned(),
        )),
        (_, why) => Err(ClientError::Refused(why)),
    }
}

/// Status and what else was said.
fn upgrade(stream: &mut UnixStream) -> io::Result<(u16, String)> {
    stream.set_read_timeout(Some(ANSWER_WITHIN))?;
    stream.set_write_timeout(Some(ANSWER_WITHIN))?;
    let asked = format!(
        "POST {PATH} HTTP/1.1\r\nhost: gpreempt\r\nconnection: upgrade\r\nupgrade: {PROTOCOL}\r\ncontent-length: 0\r\n\r\n"
    );
    put(stream, asked.as_bytes())?;
    let wrong = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    // Byte by byte: what comes behind the head is not HTTP.
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
        if head.len() > MOST_BYTES {
            return Err(wrong("its answer is too long"));
        }
    }
    let mut headers = [httparse::EMPTY_HEADER; 16];
    let mut answer = httparse::Response::new(&mut headers);
    answer
        .parse(&head)
        .map_err(|error| wrong(&error.to_string()))?;
    let status = answer
        .code
        .ok_or_else(|| wrong("its answer has no status"))?;
    let mut body = Vec::new();
    let named = answer
        .headers
        .iter()
        .find(|header| header.name.eq_ignore_ascii_case("content-length"));
    let length =
        named.and_then(|header| std::str::from_utf8(header.value).ok()?.parse::<u64>().ok());
    if let (false, Some(length)) = (status == 101, length) {
        stream
            .take(length.min(MOST_BYTES as u64))
            .read_to_end(&mut body)?;
    }
    let why = match serde_json::from_slice::<Problem>(&body) {
        Ok(problem) => problem.error,
        Err(_) => format!("the daemon answers {status}"),
    };
    Ok((status, why))
}
