// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the driver's own structs say of queues: state, priority, percentage and addresses, which no file of sysfs has. Kept as one
//! line of JSON, so that a recording holds it like a file.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::event::{GpuId, Pid, QueueId};

/// Bits of [`QueueState::hold`] (`KFD_GPREEMPT_HOLD_` of kernel-patch).
pub mod hold {
    /// Held by a call.
    pub const USER: u8 = 1;
    /// Parked by a reservation.
    pub const CAP: u8 = 2;
}

/// A queue as the driver keeps it (`struct queue`, `struct queue_properties`). `None`: this driver has no such member, or no
/// profile names it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct QueueState {
    /// Owner: thread group id in the initial pid namespace.
    pub pid: u32,
    /// Node.
    pub gpu_id: u32,
    /// Id in its process.
    pub queue_id: u32,
    /// `enum kfd_queue_format`: 0 PM4, 1 AQL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format: Option<u32>,
    /// 0 to 15.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<u32>,
    /// 0 to 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub percent: Option<u32>,
    /// Dword index on the doorbell BAR.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub doorbell: Option<u32>,
    /// User address of the ring.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ring_address: Option<u64>,
    /// Bytes of the ring.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ring_bytes: Option<u64>,
    /// User address of the read index.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rptr_address: Option<u64>,
    /// User address of the write index.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wptr_address: Option<u64>,
    /// GPU address of its descriptor on XCC 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mqd_address: Option<u64>,
    /// It belongs into the runlist.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub active: Option<bool>,
    /// Evicted with its process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub evicted: Option<bool>,
    /// Suspended by a debugger.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub suspended: Option<bool>,
    /// Its owner is destroying it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub being_destroyed: Option<bool>,
    /// [`hold`]; a driver with this project's patches only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hold: Option<u8>,
    /// How many evictions of its process on its node have not ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub evictions: Option<u32>,
}

impl QueueState {
    /// What names it.
    #[must_use]
    pub fn key(&self) -> (Pid, GpuId, QueueId) {
        (Pid(self.pid), GpuId(self.gpu_id), QueueId(self.queue_id))
    }
}

/// What could be read of all of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum States {
    /// Read.
    Known {
        /// Every queue that was found, in no order.
        queues: Vec<QueueState>,
        /// Processes whose lists changed each time they were read.
        #[serde(default)]
        torn: u32,
    },
    /// Not read.
    Unknown {
        /// Why.
        why: String,
        /// What to do about it.
        fix: String,
    },
}

impl fmt::Display for States {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&serde_json::to_string(self).map_err(|_| fmt::Error)?)
    }
}

impl FromStr for States {
    type Err = serde_json::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        serde_json::from_str(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn states_survive_their_text(pid: u32, doorbell: Option<u32>, ring: Option<u64>, active: Option<bool>, torn: u32) {
            let queue = QueueState { pid, doorbell, ring_address: ring, active, ..QueueState::default() };
            let states = States::Known { queues: vec![queue.clone(), queue], torn };
            prop_assert_eq!(states.to_string().parse::<States>().unwrap(), states);
        }

        #[test]
        fn any_text_is_states_or_refused(text in ".*") {
            let _ = text.parse::<States>();
        }
    }

    #[test]
    fn a_reason_survives_its_text() {
        let states = States::Unknown {
            why: "no \"permission\"\n".to_owned(),
            fix: "run as root".to_owned(),
        };
        let text = states.to_string();
        assert!(!text.contains('\n'));
        assert_eq!(text.parse::<States>().unwrap(), states);
    }
}
