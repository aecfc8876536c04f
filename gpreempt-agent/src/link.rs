// SPDX-License-Identifier: MIT OR Apache-2.0
//! The connection to the daemon and the thread that obeys it. If the daemon goes or falls silent, everything runs again; the
//! thread then looks for a new one as long as the process has queues.

use std::ffi::{CString, OsString};
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsRawFd as _, FromRawFd as _, RawFd};
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use gpreempt_common::agent::{
    Answer, Order, ENDED, GO, LIVES, NO_SDMA, PATH, PROTOCOL, REGISTER_VARIABLE, SOCKET_VARIABLE,
    STOP,
};
use zerocopy::{FromZeros as _, IntoBytes as _};

use crate::calls;
use crate::kfd;
use crate::queues::{Done, Hold};

/// How long the daemon may take to answer the first call. The process waits for it.
const PATIENCE: Duration = Duration::from_secs(2);

/// How often a daemon is looked for that was not there.
const AGAIN: Duration = Duration::from_secs(1);

/// How often a queue is tried that could not be restarted.
const RESTART_AGAIN: Duration = Duration::from_millis(100);

/// Longest answer of a daemon that refuses.
const MOST_BYTES: usize = 8 << 10;

/// What `gpreempt run` left in the environment.
struct Settings {
    socket: CString,
    register: Vec<u8>,
}

static SETTINGS: OnceLock<Option<Settings>> = OnceLock::new();

/// When the library is loaded: later another thread may be changing the environment.
#[used]
#[link_section = ".init_array"]
static LOADED: extern "C" fn() = {
    extern "C" fn loaded() {
        SETTINGS.get_or_init(|| {
            let variable = |name| std::env::var_os(name).map(OsString::into_vec);
            Some(Settings {
                socket: CString::new(variable(SOCKET_VARIABLE)?).ok()?,
                register: variable(REGISTER_VARIABLE)?,
            })
        });
    }
    loaded
};

/// A connection's descriptor, and how to know it again: the process may close it and use its number for something else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Socket {
    fd: RawFd,
    device: u64,
    inode: u64,
}

impl Socket {
    fn of(stream: &UnixStream) -> Option<Self> {
        let fd = stream.as_raw_fd();
        let of = kfd::stat(fd)?;
        Some(Self {
            fd,
            device: of.st_dev,
            inode: of.st_ino,
        })
    }

    fn is_there(self) -> bool {
        kfd::stat(self.fd).is_some_and(|of| (of.st_dev, of.st_ino) == (self.device, self.inode))
    }

    /// In a child, whose copy would keep the connection open.
    pub(crate) fn close(self) {
        if self.is_there() {
            // SAFETY: it is ours, and in this process nobody uses it.
            unsafe { libc::close(self.fd) };
        }
    }
}

/// Connects and starts the thread. Whether that is there now; without it the process is not held. `now` is the connection.
pub(crate) fn start(now: &mut Option<Socket>) -> bool {
    let Some(Some(settings)) = SETTINGS.get() else {
        return false;
    };
    let link = match connect(settings) {
        Ok(link) => Some(link),
        Err(Absent::Refused(why)) => {
            say(&why);
            // Another daemon may think otherwise, but not every second.
            return true;
        }
        Err(Absent::NoDaemon(why)) => {
            say(&format!("{why}; it is looked for again"));
            None
        }
    };
    *now = link.as_ref().and_then(Socket::of);
    let before = block_signals();
    let thread = std::thread::Builder::new()
        .name("gpreempt-agent".to_owned())
        .stack_size(256 << 10)
        .spawn(move || follow(settings, link));
    restore_signals(&before);
    thread.is_ok()
}

/// The process's signals are for its own threads.
fn block_signals() -> libc::sigset_t {
    // SAFETY: plain data; sigfillset and pthread_sigmask write both sets.
    unsafe {
        let (mut all, mut before) = (std::mem::zeroed(), std::mem::zeroed());
        libc::sigfillset(&raw mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before);
        before
    }
}

fn restore_signals(before: &libc::sigset_t) {
    // SAFETY: a set that pthread_sigmask wrote.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, before, std::ptr::null_mut()) };
}

fn say(what: &str) {
    static SAID: AtomicBool = AtomicBool::new(false);
    if !SAID.swap(true, Ordering::Relaxed) {
        eprintln!(
            "gpreempt-agent[{}]: {what}; this process is not held",
            std::process::id()
        );
    }
}

enum Absent {
    /// It may come.
    NoDaemon(String),
    /// It does not want this process.
    Refused(String),
}

fn connect(settings: &Settings) -> Result<UnixStream, Absent> {
    let no_daemon = |error: io::Error| {
        let socket = settings.socket.to_string_lossy();
        Absent::NoDaemon(format!("no daemon at {socket}: {error}"))
    };
    let mut stream = open(&settings.socket).map_err(no_daemon)?;
    let head = format!(
        "POST {PATH} HTTP/1.1\r\nHost: gpreempt\r\nConnection: Upgrade\r\nUpgrade: {PROTOCOL}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        settings.register.len()
    );
    let call = [head.as_bytes(), &settings.register].concat();
    stream.write_all(&call).map_err(no_daemon)?;
    // A byte at a time: what comes after the head is not HTTP any more.
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).map_err(no_daemon)?;
        head.extend(byte);
        if head.len() > MOST_BYTES {
            return Err(Absent::Refused("the daemon's answer is none".to_owned()));
        }
    }
    if head.starts_with(b"HTTP/1.1 101 ") {
        return Ok(stream);
    }
    let mut said = Vec::new();
    // What there is of it tells enough.
    let _ = stream.take(MOST_BYTES as u64).read_to_end(&mut said);
    let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    Err(Absent::Refused(format!(
        "the daemon refuses it: {}: {}",
        String::from_utf8_lossy(line),
        String::from_utf8_lossy(&said).trim_end()
    )))
}

/// With a limit on every wait, that for a daemon that hangs among them.
fn open(path: &CString) -> io::Result<UnixStream> {
    let path = path.as_bytes();
    // SAFETY: plain data.
    let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    address.sun_family = libc::AF_UNIX as libc::sa_family_t;
    if path.len() >= address.sun_path.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in address.sun_path.iter_mut().zip(path) {
        *to = *from as libc::c_char;
    }
    // SAFETY: a new descriptor.
    let fd = unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: nobody else has it.
    let stream = unsafe { UnixStream::from_raw_fd(fd) };
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let length = size_of::<libc::sockaddr_un>() as libc::socklen_t;
    // SAFETY: an address of that length.
    match unsafe { libc::connect(fd, (&raw const address).cast(), length) } {
        0 => Ok(stream),
        _ => Err(io::Error::last_os_error()),
    }
}

fn follow(settings: &Settings, mut link: Option<UnixStream>) {
    loop {
        match link.take() {
            Some(stream) => {
                obey(stream);
                restart();
            }
            None => std::thread::sleep(AGAIN),
        }
        if calls::has_queues() {
            match connect(settings) {
                Ok(stream) => {
                    calls::connected(Socket::of(&stream));
                    link = Some(stream);
                }
                Err(Absent::NoDaemon(_)) => {}
                Err(Absent::Refused(why)) => return say(&why),
            }
        }
    }
}

/// Until everything runs.
fn restart() {
    while calls::holds_any() {
        if calls::go().errno != 0 {
            std::thread::sleep(RESTART_AGAIN);
        }
    }
}

/// Until the connection ends.
fn obey(mut stream: UnixStream) {
    let Some(socket) = Socket::of(&stream) else {
        return;
    };
    let mut until: Option<Instant> = None;
    loop {
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        let retry = (until.is_none() && calls::holds_any()).then_some(RESTART_AGAIN);
        let ready = wait(socket.fd, left.or(retry));
        if !socket.is_there() {
            // The process has closed it: its number may be somebody else's.
            std::mem::forget(stream);
            calls::connected(None);
            return;
        }
        if retry.is_some() {
            calls::go();
        }
        if until.is_some_and(|until| until <= Instant::now()) {
            until = None;
            let ended = answer(ENDED, calls::go(), Duration::ZERO);
            if stream.write_all(ended.as_bytes()).is_err() {
                break;
            }
        }
        if !ready {
            continue;
        }
        let mut order = Order::new_zeroed();
        if stream.read_exact(order.as_mut_bytes()).is_err() {
            break;
        }
        let lease = Duration::from_millis(order.lease_ms.into());
        let started = Instant::now();
        let done = match order.kind {
            STOP => {
                let no_sdma = order.flags & NO_SDMA != 0;
                let done = calls::stop(Hold { no_sdma });
                if done.errno == 0 {
                    until = Some(Instant::now() + lease);
                }
                done
            }
            GO => {
                until = None;
                calls::go()
            }
            LIVES => {
                until = until.map(|_| Instant::now() + lease);
                continue;
            }
            // One that speaks another language.
            _ => break,
        };
        let told = answer(order.sequence, done, started.elapsed());
        if stream.write_all(told.as_bytes()).is_err() {
            break;
        }
    }
    calls::connected(None);
}

fn answer(sequence: u32, done: Done, took: Duration) -> Answer {
    Answer {
        sequence,
        queues: done.queues,
        changed: done.changed,
        errno: u32::try_from(done.errno).unwrap_or(libc::EIO as u32),
        took_ns: u64::try_from(took.as_nanos()).unwrap_or(u64::MAX),
    }
}

/// Whether there is something to read, or the end of it, within that time.
fn wait(fd: RawFd, within: Option<Duration>) -> bool {
    let timeout = within.map_or(-1, |within| {
        // Rounded up: waking too early would only make it wait again.
        i32::try_from(within.as_millis() + 1).unwrap_or(i32::MAX)
    });
    let mut poll = libc::pollfd {
        fd,
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one entry.
    unsafe { libc::poll(&raw mut poll, 1, timeout) > 0 }
}
