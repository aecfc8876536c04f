// SPDX-License-Identifier: MIT OR Apache-2.0
//! Recordings: what the kernel side sent, and the files of /sys and /proc that belong to it, in one file that is read without
//! root, GPU or the machine that it was made on.
//!
//! A recording is a tar archive compressed by zstd, so that `tar --zstd -tvf FILE` lists it. Entries follow each other in time:
//!
//! | entry | is |
//! |---|---|
//! | `gpreempt.json` | the first: version of the format, of the program, the time |
//! | `attached.json` | probes were attached: kernel, module, probes, offsets, time |
//! | `snapshot.json` | the files that follow are a whole new picture of the machine; older ones are forgotten |
//! | `tree/...` | a file of the machine, under its path. A path with `#` is something that no file says: `/proc/7/mem#7f00` is eight bytes of memory |
//! | `events/N.bin` | records as they lay in the ring buffer, one after the other (`gpreempt-common`) |
//! | `counters.json` | records lost, and other counts, so far |
//! | `gone.json` | the driver was unloaded |
//! | `end.json` | the last: how it ended. Without it the recording is cut off |

mod format;
mod read;
mod write;

pub use format::{Attached, Counted, Ended, Entry, Head, Snapped, FORMAT};
pub use read::{Error, Reader};
pub use write::Writer;

#[cfg(test)]
mod tests;
