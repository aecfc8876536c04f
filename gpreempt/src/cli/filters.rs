// SPDX-License-Identifier: MIT OR Apache-2.0
//! Options that say whose events count; within one of them any value will do.

use crate::event::{Kind, Pid};
use crate::sink::filter::{CommGlob, Filter, GpuArg};

/// Whose, and where.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Filters {
    /// Only events of, or caused by, these processes
    #[arg(long, value_delimiter = ',')]
    pid: Vec<Pid>,
    /// Only events of, or caused by, processes of this name: *, ? and [...] as in a shell
    #[arg(long, value_name = "GLOB")]
    comm: Vec<CommGlob>,
    /// Only events on these GPUs: gpu_id, hexadecimal as in the table or decimal as in JSON
    #[arg(long, value_delimiter = ',', value_name = "GPU_ID")]
    gpu: Vec<GpuArg>,
}

impl Filters {
    /// With kinds of events.
    pub(super) fn of(self, kinds: Vec<Kind>) -> Filter {
        Filter {
            pids: self.pid,
            comms: self.comm,
            gpus: self.gpu,
            kinds,
        }
    }
}
