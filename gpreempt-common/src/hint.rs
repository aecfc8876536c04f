// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a service and the daemon say to each other about hints, once the connection has changed from HTTP to this: frames of a fixed
//! size, in the byte order of the machine, which both are on. A service waits for its hint before every request, and HTTP takes longer
//! than all the rest.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The path of the call whose connection changes, and the name of what it changes to.
pub const PATH: &str = "/v1/hint-frames";
/// See [`PATH`].
pub const PROTOCOL: &str = "gpreempt-hints-1";

/// [`Ask::kind`]: a hint begins.
pub const BEGIN: u32 = 1;
/// [`Ask::kind`]: that of [`Ask::id`] ends.
pub const END: u32 = 2;

/// Bit of [`Ask::flags`]: answer when offline queues have been stopped.
pub const WAIT: u32 = 1;
/// Bit of [`Ask::flags`]: the hint ends with the process that made the connection.
pub const OWN: u32 = 2;

/// From the service.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Ask {
    /// [`BEGIN`] or [`END`].
    pub kind: u32,
    /// [`WAIT`], [`OWN`].
    pub flags: u32,
    /// Of [`END`].
    pub id: u64,
    /// When the work begins, in milliseconds from now.
    pub lead_ms: u64,
    /// When the hint ends by itself, in milliseconds; 0 = as the daemon is configured.
    pub expires_ms: u64,
}

/// From the daemon, followed by `text_bytes` of UTF-8.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Reply {
    /// 0 = done, or the HTTP status of the refusal, which the text explains.
    pub status: u32,
    /// Bytes of the text.
    pub text_bytes: u32,
    /// Of [`BEGIN`]: the hint. Of [`END`]: how long the work took, in nanoseconds.
    pub value: u64,
}
