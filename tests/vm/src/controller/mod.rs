// SPDX-License-Identifier: MIT OR Apache-2.0
//! Processes that hold other processes' queues: `vm-tests` itself, started again and steered by lines on its standard
//! input. A process of its own, because who holds is a process, and tests end it in every way there is.

mod fuzz;
mod protocol;
mod serve;
mod tracer;

use std::os::unix::process::CommandExt;
use std::process::Command as Program;

use anyhow::Context;
use nix::errno::Errno;
use nix::sys::signal::Signal;

pub(crate) use protocol::{
    Answer, At, Call, Command, FuzzPlan, RawCall, RawReply, Reply, Reservation, Reserved,
    Result as Outcome, Spec, VERB,
};
pub(crate) use serve::serve;

use crate::json_child::JsonChild;

/// A running controller.
pub(crate) struct Controller {
    child: JsonChild,
    answers: usize,
}

impl Controller {
    /// Starts one that has `/dev/kfd` open.
    pub(crate) fn start() -> anyhow::Result<Self> {
        Self::spawn(Program::new("/proc/self/exe"))
    }

    /// Starts one as another user, who must be able to open `/dev/kfd`.
    pub(crate) fn start_as(uid: u32) -> anyhow::Result<Self> {
        let mut program = Program::new("/proc/self/exe");
        program.uid(uid).gid(uid);
        Self::spawn(program)
    }

    fn spawn(mut program: Program) -> anyhow::Result<Self> {
        program.arg(VERB);
        let mut controller = Self {
            child: JsonChild::start(program)?,
            answers: 0,
        };
        controller.open(0)?;
        Ok(controller)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.pid()
    }

    /// Sends a command without waiting.
    pub(crate) fn send(&mut self, command: &Command) -> anyhow::Result<()> {
        self.child
            .send(&serde_json::to_string(command).context("command")?)
    }

    /// Waits for the next answer.
    pub(crate) fn answer(&mut self) -> anyhow::Result<Answer> {
        let index = self.answers;
        self.answers += 1;
        let line = self.child.wait_for("an answer", |records| {
            records
                .iter()
                .filter(|record| record.kind == "answer")
                .nth(index)
                .cloned()
        })?;
        let answer = serde_json::from_value(line.data).context("answer")?;
        if let Answer::Broken { message } = answer {
            anyhow::bail!("controller: {message}");
        }
        Ok(answer)
    }

    /// Sends a command and waits for its answer, which may be an errno.
    pub(crate) fn ask(&mut self, command: &Command) -> anyhow::Result<Answer> {
        self.send(command)?;
        self.answer()
    }

    /// Sends a command that must be done.
    pub(crate) fn order(&mut self, command: &Command) -> anyhow::Result<Answer> {
        let answer = self.ask(command)?;
        anyhow::ensure!(
            !matches!(answer, Answer::Errno { .. }),
            "{command:?}: {answer}"
        );
        Ok(answer)
    }

    /// Opens another file.
    pub(crate) fn open(&mut self, slot: usize) -> anyhow::Result<()> {
        self.order(&Command::Open { slot }).map(drop)
    }

    /// Closes a file.
    pub(crate) fn close(&mut self, slot: usize) -> anyhow::Result<()> {
        self.order(&Command::Close { slot }).map(drop)
    }

    /// A call that may fail as a whole.
    pub(crate) fn try_call(&mut self, call: Call) -> anyhow::Result<Result<Reply, Errno>> {
        match self.ask(&Command::Batch(call))? {
            Answer::Batch(reply) => Ok(Ok(reply)),
            Answer::Errno { errno } => Ok(Err(Errno::from_raw(errno))),
            other => anyhow::bail!("a batch was answered by {other:?}"),
        }
    }

    /// A call that the driver must process, whatever becomes of its entries.
    pub(crate) fn call(&mut self, call: Call) -> anyhow::Result<Reply> {
        let what = format!("{call:?}");
        self.try_call(call)?.with_context(|| what)
    }

    /// Holds without limit; every entry must be processed.
    pub(crate) fn hold(&mut self, entries: &[Spec]) -> anyhow::Result<Reply> {
        self.hold_for(entries, 0)
    }

    /// Holds for so long, 0 = without limit; every entry must be processed.
    pub(crate) fn hold_for(&mut self, entries: &[Spec], lease_ms: u32) -> anyhow::Result<Reply> {
        let reply = self.call(Call {
            entries: entries.to_vec(),
            lease_ms,
            ..Call::default()
        })?;
        all_processed(entries, &reply)?;
        Ok(reply)
    }

    /// Releases; every entry must be processed.
    pub(crate) fn release(&mut self, entries: &[Spec]) -> anyhow::Result<Reply> {
        let reply = self.call(Call {
            entries: entries.to_vec(),
            release: true,
            ..Call::default()
        })?;
        all_processed(entries, &reply)?;
        Ok(reply)
    }

    /// What is true of the queues now, from a hold that changes nothing.
    pub(crate) fn look(&mut self, entry: Spec) -> anyhow::Result<Outcome> {
        let reply = self.call(Call {
            entries: vec![entry],
            flags: gpreempt::kfd::uapi::gpreempt::DRY_RUN,
            ..Call::default()
        })?;
        Ok(reply.entries[0])
    }

    /// A call with any bytes. Returns what it left in arguments and entries.
    pub(crate) fn raw(&mut self, call: RawCall) -> anyhow::Result<Result<RawReply, Errno>> {
        match self.ask(&Command::Raw(call))? {
            Answer::Raw(reply) => Ok(Ok(reply)),
            Answer::Errno { errno } => Ok(Err(Errno::from_raw(errno))),
            other => anyhow::bail!("a raw call was answered by {other:?}"),
        }
    }

    /// A reservation call that may fail.
    pub(crate) fn try_reserve(
        &mut self,
        reservation: Reservation,
    ) -> anyhow::Result<Result<Reserved, Errno>> {
        match self.ask(&Command::Reserve(reservation))? {
            Answer::Reserved(reply) => Ok(Ok(reply)),
            Answer::Errno { errno } => Ok(Err(Errno::from_raw(errno))),
            other => anyhow::bail!("a reservation was answered by {other:?}"),
        }
    }

    /// A reservation call that must succeed.
    pub(crate) fn reserve(&mut self, reservation: Reservation) -> anyhow::Result<Reserved> {
        let what = format!("{reservation:?}");
        self.try_reserve(reservation)?.with_context(|| what)
    }

    pub(crate) fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        self.child.signal(signal)
    }

    /// Ends it at once. Waits until the process is gone.
    pub(crate) fn kill(mut self) -> anyhow::Result<()> {
        self.child.signal(Signal::SIGKILL)?;
        self.child.wait_exit().map(drop)
    }
}

fn all_processed(entries: &[Spec], reply: &Reply) -> anyhow::Result<()> {
    anyhow::ensure!(
        reply.num_failed == 0 && reply.entries.iter().all(|entry| entry.status == 0),
        "{entries:?} failed: {reply:?}"
    );
    Ok(())
}
