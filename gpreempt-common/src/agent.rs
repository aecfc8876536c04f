// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the daemon and the library inside a job say to each other, once the connection has changed from HTTP to this: frames of
//! a fixed size, in the byte order of the machine, which both are on.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The path of the call whose connection changes, and the name of what it changes to.
pub const PATH: &str = "/v1/agents";
/// See [`PATH`].
pub const PROTOCOL: &str = "gpreempt-agent-1";

/// Where `gpreempt run` says where the daemon listens.
pub const SOCKET_VARIABLE: &str = "GPREEMPT_AGENT_SOCKET";
/// Where it says what the process is: the body of [`PATH`], JSON.
pub const REGISTER_VARIABLE: &str = "GPREEMPT_AGENT_REGISTER";

/// [`Order::kind`]: stop all queues, also those that are created later.
pub const STOP: u32 = 1;
/// [`Order::kind`]: restart them.
pub const GO: u32 = 2;
/// [`Order::kind`]: the daemon lives; the lease begins anew. Not answered.
pub const LIVES: u32 = 3;

/// Bit of [`Order::flags`]: leave SDMA queues alone.
pub const NO_SDMA: u32 = 1;

/// [`Answer::sequence`] of what no order asked for: the lease has ended, and the queues run.
pub const ENDED: u32 = 0;

/// From the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Order {
    /// [`STOP`], [`GO`] or [`LIVES`].
    pub kind: u32,
    /// Which; never 0.
    pub sequence: u32,
    /// Queues stay stopped for so long without a further order.
    pub lease_ms: u32,
    /// [`NO_SDMA`].
    pub flags: u32,
}

/// From the job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Answer {
    /// That of the order, or [`ENDED`].
    pub sequence: u32,
    /// Queues that are stopped (or run) now.
    pub queues: u32,
    /// Of these, queues that this order stopped (or restarted).
    pub changed: u32,
    /// Error number of `AMDKFD_IOC_UPDATE_QUEUE`; 0 = done. After a STOP that failed all queues run.
    pub errno: u32,
    /// From before the first to after the last of these calls.
    pub took_ns: u64,
}
