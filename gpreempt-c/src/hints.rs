// SPDX-License-Identifier: MIT OR Apache-2.0
//! Hints: one connection to the daemon, kept open. A hint costs one round trip on it, in the thread that gives it.

use std::path::Path;

use gpreempt::event::Pid;
use gpreempt::kfd::{process, Root};
use gpreempt::serve::api::HintBegin;
use gpreempt::serve::hint_client::HintClient;

use crate::abi::*;
use crate::error::{Error, Result};

pub(crate) struct Hints {
    client: HintClient,
    /// This process, where the daemon knows it by that number.
    own: Option<Pid>,
}

impl Hints {
    pub(crate) fn new(root: &Root, socket: &Path) -> Self {
        Self {
            client: HintClient::new(socket),
            own: process::sees_host_pids(root).then(|| Pid(std::process::id())),
        }
    }

    pub(crate) fn begin(&mut self, options: &gpreempt_hint) -> Result<u64> {
        let asked = asked(options, self.own)?;
        Ok(self.client.begin(&asked)?)
    }

    /// How long the work took, in nanoseconds.
    pub(crate) fn end(&mut self, id: u64) -> Result<u64> {
        Ok(self.client.end(id)?)
    }
}

fn asked(options: &gpreempt_hint, own: Option<Pid>) -> Result<HintBegin> {
    let known = GPREEMPT_HINT_WAIT | GPREEMPT_HINT_OUTLIVES;
    if options.flags & !known != 0 {
        return Err(Error::invalid(format!(
            "flags of the hint: {:#x} are not known",
            options.flags & !known
        )));
    }
    Ok(HintBegin {
        lead_ms: options.lead_ms.into(),
        expires_ms: (options.expires_ms != 0).then(|| options.expires_ms.into()),
        pid: own.filter(|_| options.flags & GPREEMPT_HINT_OUTLIVES == 0),
        wait: options.flags & GPREEMPT_HINT_WAIT != 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_become_the_daemons() {
        let own = Some(Pid(7));
        assert_eq!(
            asked(&gpreempt_hint::default(), own).unwrap(),
            HintBegin {
                pid: own,
                ..HintBegin::default()
            }
        );
        let options = gpreempt_hint {
            flags: GPREEMPT_HINT_WAIT | GPREEMPT_HINT_OUTLIVES,
            lead_ms: 3,
            expires_ms: 4,
            ..gpreempt_hint::default()
        };
        assert_eq!(
            asked(&options, own).unwrap(),
            HintBegin {
                lead_ms: 3,
                expires_ms: Some(4),
                pid: None,
                wait: true,
            }
        );
    }

    #[test]
    fn flags_that_are_not_known_are_refused() {
        let options = gpreempt_hint {
            flags: 4,
            ..gpreempt_hint::default()
        };
        assert_eq!(asked(&options, None).unwrap_err().code, GPREEMPT_EINVAL);
    }
}
