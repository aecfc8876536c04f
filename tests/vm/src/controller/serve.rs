// SPDX-License-Identifier: MIT OR Apache-2.0
//! The controller's side: obeys one line after the other, and ends with its standard input.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{BufRead, IoSlice, IoSliceMut, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::time::Duration;

use anyhow::Context;
use gpreempt::kfd::uapi::gpreempt::Entry;
use nix::errno::Errno;
use nix::fcntl::{fcntl, FcntlArg, FdFlag};
use nix::sys::socket::{recvmsg, sendmsg, ControlMessage, ControlMessageOwned, MsgFlags};
use workload::pace::Random;

use super::fuzz;
use super::protocol::{
    Answer, At, Call, Command, RawCall, RawReply, Reply, Reservation, Reserved, Spec, VERB,
};
use super::tracer::Tracer;
use crate::gpreempt_fd::{fork_child, Arena, GpreemptFd};

/// Set for the program that [`Command::Exec`] starts: the descriptor that it finds open.
const INHERITED: &str = "GPREEMPT_TEST_FD";

#[derive(Default)]
struct State {
    files: BTreeMap<usize, GpreemptFd>,
    tracer: Option<Tracer>,
}

/// Serves standard input.
pub(crate) fn serve() -> anyhow::Result<()> {
    let mut state = State::default();
    if let Some(fd) = inherited() {
        state.files.insert(0, fd.into());
    }
    for line in std::io::stdin().lock().lines() {
        let line = line.context("read a command")?;
        let answer = serde_json::from_str(&line)
            .with_context(|| format!("not a command: {line}"))
            .and_then(|command| state.obey(command))
            .unwrap_or_else(|error| Answer::Broken {
                message: format!("{error:#}"),
            });
        say(&answer)?;
    }
    Ok(())
}

fn inherited() -> Option<OwnedFd> {
    let number: RawFd = std::env::var(INHERITED).ok()?.parse().ok()?;
    // SAFETY: the program before this one left it open for us, and nobody else here knows of it.
    Some(unsafe { OwnedFd::from_raw_fd(number) })
}

fn say(answer: &Answer) -> anyhow::Result<()> {
    let mut line = serde_json::to_value(answer).context("answer")?;
    line["type"] = "answer".into();
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")
        .and_then(|()| out.flush())
        .context("answer")
}

impl State {
    fn file(&self, slot: usize) -> anyhow::Result<&GpreemptFd> {
        self.files
            .get(&slot)
            .with_context(|| format!("file {slot} is not open"))
    }

    fn tracer(&mut self) -> anyhow::Result<&mut Tracer> {
        self.tracer.as_mut().context("nothing is attached to")
    }

    fn obey(&mut self, command: Command) -> anyhow::Result<Answer> {
        match command {
            Command::Open { slot } => {
                self.files.insert(slot, GpreemptFd::open()?);
            }
            Command::Close { slot } => drop(self.files.remove(&slot)),
            Command::Duplicate { slot, to } => {
                let copy = self.file(slot)?.duplicate()?;
                self.files.insert(to, copy);
            }
            Command::Batch(call) => return Ok(batch(self.file(call.slot)?, &call)),
            Command::Reserve(reservation) => {
                return Ok(reserve(self.file(reservation.slot)?, &reservation))
            }
            Command::Spin { entries, seed } => spin(self.file(0)?, &entries, seed),
            Command::Fork(call) => return self.fork(&call),
            Command::Exec => return Err(exec(self.file(0)?)),
            Command::SendFile { slot, path } => send_file(self.file(slot)?, &path)?,
            Command::ReceiveFile { slot, path } => {
                let listener = UnixListener::bind(&path).with_context(|| path.clone())?;
                say(&Answer::Done)?;
                self.files.insert(slot, receive_file(&listener)?);
            }
            Command::Raw(call) => return raw(self.file(0)?, call),
            Command::Fuzz(plan) => return Ok(Answer::Fuzzed(fuzz::run(&plan)?)),
            Command::Attach { pid } => self.tracer = Some(Tracer::attach(pid)?),
            Command::Suspend { queues } => {
                let count = self.tracer()?.suspend(&queues)?;
                return Ok(Answer::Count { count });
            }
            Command::Resume { queues } => {
                let count = self.tracer()?.resume(&queues)?;
                return Ok(Answer::Count { count });
            }
            Command::Pause => self.tracer()?.pause()?,
            Command::Unpause => self.tracer()?.unpause()?,
            Command::Detach => {
                if let Some(tracer) = self.tracer.take() {
                    tracer.detach()?;
                }
            }
        }
        Ok(Answer::Done)
    }

    fn fork(&self, call: &Call) -> anyhow::Result<Answer> {
        let file = self.file(call.slot)?;
        let (reader, writer) = std::io::pipe().context("pipe")?;
        let pid = fork_child(|| {
            let errno = match batch(file, call) {
                Answer::Errno { errno } => errno,
                _ => 0,
            };
            let _ = (&writer).write_all(&errno.to_ne_bytes());
            // It must not keep the test waiting for the end of the output, and only goes when it is killed.
            for number in 0..3 {
                // SAFETY: nothing in this child reads or writes any more.
                drop(unsafe { OwnedFd::from_raw_fd(number) });
            }
            loop {
                std::thread::park();
            }
        })?;
        drop(writer);
        let mut errno = [0; 4];
        std::io::Read::read_exact(&mut &reader, &mut errno).context("the child died")?;
        Ok(Answer::Forked {
            pid,
            errno: i32::from_ne_bytes(errno),
        })
    }
}

fn batch(file: &GpreemptFd, call: &Call) -> Answer {
    let mut entries: Vec<Entry> = call.entries.iter().map(|spec| spec.entry()).collect();
    match file.batch(call.release, call.args(), &mut entries) {
        Ok(args) => Answer::Batch(Reply::new(&args, &entries)),
        Err(errno) => Answer::Errno {
            errno: errno as i32,
        },
    }
}

fn reserve(file: &GpreemptFd, call: &Reservation) -> Answer {
    let mut entries: Vec<Entry> = call.entries.iter().map(|spec| spec.entry()).collect();
    match file.reservation(call.args(), &mut entries) {
        Ok(args) => Answer::Reserved(Reserved::new(&args, &entries)),
        Err(errno) => Answer::Errno {
            errno: errno as i32,
        },
    }
}

fn raw(file: &GpreemptFd, mut call: RawCall) -> anyhow::Result<Answer> {
    /// Arguments are on the first page, entries behind them.
    const ENTRIES_AT: usize = 4096;
    let arena = Arena::new(12)?;
    let entries_at = match call.at {
        At::Writable | At::Address(_) => ENTRIES_AT,
        At::ReadOnly => arena.read_only_at(),
        At::TailReadOnly(bytes) => arena.read_only_at() + bytes - call.entries.len(),
    };
    let writable = call
        .entries
        .len()
        .min(arena.read_only_at().saturating_sub(entries_at));
    let (front, back) = call.entries.split_at(writable);
    arena.write(entries_at.min(arena.read_only_at() - front.len()), front);
    arena.write_read_only(0, back)?;
    let address = match call.at {
        At::Address(address) => address,
        _ => arena.address(entries_at),
    };
    anyhow::ensure!(arena.is_harmless(address), "{address:#x} may be in use");
    if let Some(pointer) = call.args.first_chunk_mut::<8>() {
        *pointer = address.to_ne_bytes();
    }
    arena.write(0, &call.args);
    Ok(match file.raw(call.number, &arena, 0) {
        Ok(_) => Answer::Raw(RawReply {
            args: arena.read(0, call.args.len()),
            entries: arena.read(entries_at, call.entries.len()),
        }),
        Err(errno) => Answer::Errno {
            errno: errno as i32,
        },
    })
}

fn spin(file: &GpreemptFd, entries: &[Spec], seed: u64) -> ! {
    let mut random = Random::new(seed);
    loop {
        let call = Call {
            release: random.below(2) == 0,
            entries: entries.to_vec(),
            ..Call::default()
        };
        let lease_ms = if call.release || random.below(2) == 0 {
            0
        } else {
            60_000
        };
        batch(file, &Call { lease_ms, ..call });
        // Taking queues off lasts longer than being without them would, if calls just followed each other.
        if random.below(2) == 0 {
            std::thread::sleep(Duration::from_micros(random.below(10_000)));
        }
    }
}

/// Returns only if it failed.
fn exec(file: &GpreemptFd) -> anyhow::Error {
    if let Err(errno) = fcntl(file.file(), FcntlArg::F_SETFD(FdFlag::empty())) {
        return anyhow::Error::from(errno).context("fcntl");
    }
    let number = OsString::from(file.file().as_raw_fd().to_string());
    let error = std::process::Command::new("/proc/self/exe")
        .arg(VERB)
        .env(INHERITED, number)
        .exec();
    anyhow::Error::from(error).context("exec")
}

fn send_file(file: &GpreemptFd, path: &str) -> anyhow::Result<()> {
    let stream = UnixStream::connect(path).with_context(|| format!("connect to {path}"))?;
    let files = [file.file().as_raw_fd()];
    sendmsg::<()>(
        stream.as_raw_fd(),
        &[IoSlice::new(b"f")],
        &[ControlMessage::ScmRights(&files)],
        MsgFlags::empty(),
        None,
    )
    .context("sendmsg")?;
    Ok(())
}

fn receive_file(listener: &UnixListener) -> anyhow::Result<GpreemptFd> {
    let (stream, _) = listener.accept().context("accept")?;
    let mut byte = [0; 1];
    let mut slices = [IoSliceMut::new(&mut byte)];
    let mut space = nix::cmsg_space!(RawFd);
    let message = recvmsg::<()>(
        stream.as_raw_fd(),
        &mut slices,
        Some(&mut space),
        MsgFlags::MSG_CMSG_CLOEXEC,
    )
    .context("recvmsg")?;
    for part in message.cmsgs().context("control messages")? {
        if let ControlMessageOwned::ScmRights(files) = part {
            let &number = files.first().context("no file came")?;
            // SAFETY: the kernel just made this descriptor for us.
            return Ok(unsafe { OwnedFd::from_raw_fd(number) }.into());
        }
    }
    Err(Errno::ENOMSG).context("no file came")
}
