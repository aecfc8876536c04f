// SPDX-License-Identifier: MIT OR Apache-2.0
//! Hints in frames of a fixed size, instead of a call of HTTP each: the connection of a service, answered by a thread of its own.

use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::thread;

use gpreempt_common::hint::{Ask, Reply, BEGIN, END, OWN, WAIT};
use zerocopy::{FromZeros as _, IntoBytes as _};

use super::access::Caller;
use super::api::HintBegin;
use super::calls::{Answer, Refusal};
use super::controller::{Message, Seat};
use super::desk::Desk;
use super::http;
use crate::event::Pid;
use crate::kfd::boottime_ns;

/// One connection.
pub(super) struct Frames {
    pub(super) desk: Desk,
    pub(super) seat: Seat,
    pub(super) caller: Caller,
    /// Who made it, and when that started.
    pub(super) own: Option<(Pid, u64)>,
}

impl Frames {
    /// Answers until the service goes, in a thread. `place` is kept as long.
    pub(super) fn start(
        self,
        mut stream: UnixStream,
        place: impl Send + 'static,
    ) -> io::Result<()> {
        stream.set_nonblocking(false)?;
        let named = thread::Builder::new().name("hints".to_owned());
        named.spawn(move || {
            // One that breaks is nobody's loss: its hints end with their process, or by themselves.
            let _ = self.answer_all(&mut stream);
            drop(place);
        })?;
        Ok(())
    }

    fn answer_all(&self, stream: &mut UnixStream) -> io::Result<()> {
        let mut ask = Ask::new_zeroed();
        loop {
            stream.read_exact(ask.as_mut_bytes())?;
            match self.answer(&ask) {
                Ok(value) => {
                    let reply = Reply {
                        value,
                        ..Reply::default()
                    };
                    // First the service, which waits: the controller, once awake, may take its processor.
                    let told = stream.write_all(reply.as_bytes());
                    if !waits(&ask) {
                        let _ = self.seat.send(Message::Hints);
                    }
                    told?;
                }
                Err(refusal) => {
                    let (status, text) = http::status(refusal);
                    let reply = Reply {
                        status: status.as_u16().into(),
                        text_bytes: u32::try_from(text.len()).unwrap_or(0),
                        value: 0,
                    };
                    let text = &text.as_bytes()[..reply.text_bytes as usize];
                    stream.write_all(&[reply.as_bytes(), text].concat())?;
                }
            }
        }
    }

    fn answer(&self, ask: &Ask) -> Answer<u64> {
        match ask.kind {
            BEGIN => self.begin(ask),
            END => Ok(self.desk.end(self.caller, ask.id)?.latency_ns),
            other => Err(Refusal::Wrong(format!(
                "frames of kind {other} are not known"
            ))),
        }
    }

    fn begin(&self, ask: &Ask) -> Answer<u64> {
        if ask.flags & !(WAIT | OWN) != 0 {
            return Err(Refusal::Wrong(format!(
                "flags {:#x} are not known",
                ask.flags
            )));
        }
        let own = match ask.flags & OWN {
            0 => None,
            _ => Some(self.own.ok_or_else(|| {
                Refusal::Wrong("the daemon cannot tell which process this is".to_owned())
            })?),
        };
        let asked = HintBegin {
            lead_ms: ask.lead_ms,
            expires_ms: (ask.expires_ms != 0).then_some(ask.expires_ms),
            pid: own.map(|(pid, _)| pid),
            wait: waits(ask),
        };
        let asked_ns = boottime_ns();
        let begun = self.desk.begin_with(self.caller, &asked, own)?;
        // Who waits for what the controller does may as well be served by the thread that does it.
        if asked.wait && !self.seat.hinted(asked_ns) {
            return Err(http::ends());
        }
        Ok(begun.id)
    }
}

/// Whether the controller has decided by the time of the answer.
fn waits(ask: &Ask) -> bool {
    ask.kind == BEGIN && ask.flags & WAIT != 0
}
