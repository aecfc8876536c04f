// SPDX-License-Identifier: MIT OR Apache-2.0
//! A user who makes calls that nobody would make: `vm-tests` itself, started again as another user.

use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Context;
use nix::sys::resource::{getrlimit, setrlimit, Resource};
use serde_json::json;

use crate::calls::Maker;
use crate::daemon::SOCKET;
use crate::json_child::{JsonChild, DEADLINE};

/// First argument that makes `vm-tests` a caller: `caller SEED COUNT PID...`.
pub(crate) const VERB: &str = "caller";

/// Connections that a caller tries to have at once, and those that a user may have.
const CONNECTIONS: usize = 1500;
pub(crate) const MOST: u64 = 128;

/// A running one.
pub(crate) struct Caller(JsonChild);

impl Caller {
    /// Starts one that makes so many calls about these processes.
    pub(crate) fn start(uid: u32, seed: u64, count: u32, pids: &[u32]) -> anyhow::Result<Self> {
        let mut command = Command::new("/proc/self/exe");
        command
            .args([VERB, &seed.to_string(), &count.to_string()])
            .args(pids.iter().map(u32::to_string));
        command.uid(uid).gid(uid);
        Ok(Self(JsonChild::start(command)?))
    }

    /// Waits until it is through: how many calls were answered, and how many connections it had at once.
    pub(crate) fn finish(mut self) -> anyhow::Result<(u64, u64)> {
        let status = self.0.wait_exit()?;
        anyhow::ensure!(status.success(), "caller: {status}: {}", self.0.errors());
        let records = self.0.records();
        let done = records.last().context("the caller said nothing")?;
        Ok((done.number("answered")?, done.number("connected")?))
    }
}

/// The caller's side.
pub(crate) fn run() -> anyhow::Result<()> {
    let mut words = std::env::args().skip(2);
    let mut number = || -> anyhow::Result<u64> {
        let word = words.next().context("SEED COUNT PID...")?;
        word.parse().with_context(|| word.clone())
    };
    let (seed, count) = (number()?, number()?);
    let mut pids = Vec::new();
    while let Ok(pid) = number() {
        pids.push(u32::try_from(pid)?);
    }
    let root = nix::unistd::geteuid().is_root();
    let answered = calls(seed, count, &pids, root)?;
    let connected = if root { 0 } else { crowd()? };
    println!(
        "{}",
        json!({ "type": "done", "answered": answered, "connected": connected })
    );
    Ok(())
}

fn calls(seed: u64, count: u64, pids: &[u32], root: bool) -> anyhow::Result<u64> {
    let mut maker = Maker::new(seed, pids);
    for _ in 0..count {
        let (call, operation) = maker.call();
        let (status, body) = call.make(Path::new(SOCKET))?;
        let said = String::from_utf8_lossy(&body);
        anyhow::ensure!((200..500).contains(&status), "{call:?}: {status} {said}");
        let right = operation.as_ref().and_then(|of| of.right.as_deref());
        let denied = !matches!(right, None | Some("read" | "register"));
        anyhow::ensure!(
            root || !denied || status != 200,
            "user without the right {right:?}: {call:?}: {status} {said}"
        );
    }
    Ok(count)
}

/// As many connections as it can get, of which some say half of what they want. Those that the daemon has closed do not count.
fn crowd() -> anyhow::Result<u64> {
    use std::io::{ErrorKind, Read as _, Write as _};
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).context("getrlimit")?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most).context("setrlimit")?;
    let mut open = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut stream = UnixStream::connect(SOCKET).context("connect")?;
        let _ = stream.write_all(b"POST /v1/hold HTTP/1.1\r\nho");
        open.push(stream);
    }
    // Those that the daemon has not accepted yet look like the ones that it keeps.
    let until = Instant::now() + DEADLINE / 2;
    let mut connected = u64::MAX;
    while connected > MOST && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(50));
        connected = 0;
        for stream in &mut open {
            stream.set_nonblocking(true)?;
            let alive = |error: &std::io::Error| error.kind() == ErrorKind::WouldBlock;
            connected += u64::from(stream.read(&mut [0]).as_ref().is_err_and(alive));
        }
    }
    Ok(connected)
}
