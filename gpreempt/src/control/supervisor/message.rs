// SPDX-License-Identifier: MIT OR Apache-2.0
//! What controller and supervisor tell each other: packets of one size on a socket that keeps them apart (SOCK_SEQPACKET).
//! Whatever has another size, mark or kind is no message.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::control::BackendKind;
use crate::event::Pid;

/// Both ends are the same program; this is against being connected to something else.
const MARK: u32 = u32::from_le_bytes(*b"gps1");

/// A packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Packet {
    mark: u32,
    kind: u16,
    backend: u16,
    pid: u32,
    sequence: u32,
    start_ticks: u64,
}

/// Bytes of a packet.
pub(super) const PACKET_BYTES: usize = size_of::<Packet>();

const _: () = assert!(PACKET_BYTES == 24);

/// A message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Message {
    /// Supervisor: ready to watch.
    Ready,
    /// Controller: is about to stop this process.
    Watch {
        pid: Pid,
        start_ticks: u64,
        backend: BackendKind,
        sequence: u32,
    },
    /// Controller: it runs again.
    Forget { pid: Pid, sequence: u32 },
    /// Controller: lives.
    Beat { sequence: u32 },
    /// Controller: lives, and goes into calls of the driver that may take long.
    Busy { sequence: u32 },
    /// Supervisor: has taken note of everything up to this number.
    Seen { sequence: u32 },
}

const BACKENDS: [BackendKind; 4] = [
    BackendKind::Patched,
    BackendKind::DebugTrap,
    BackendKind::Criu,
    BackendKind::DryRun,
];

impl Message {
    pub(super) fn encode(self) -> [u8; PACKET_BYTES] {
        let packet = Packet {
            mark: MARK,
            kind: 0,
            backend: 0,
            pid: 0,
            sequence: 0,
            start_ticks: 0,
        };
        let packet = match self {
            Self::Ready => Packet { kind: 1, ..packet },
            Self::Watch {
                pid,
                start_ticks,
                backend,
                sequence,
            } => Packet {
                kind: 2,
                backend: BACKENDS
                    .iter()
                    .zip(0..)
                    .find_map(|(one, number)| (*one == backend).then_some(number))
                    .unwrap_or(u16::MAX),
                pid: pid.0,
                sequence,
                start_ticks,
                ..packet
            },
            Self::Forget { pid, sequence } => Packet {
                kind: 3,
                pid: pid.0,
                sequence,
                ..packet
            },
            Self::Beat { sequence } => Packet {
                kind: 4,
                sequence,
                ..packet
            },
            Self::Busy { sequence } => Packet {
                kind: 6,
                sequence,
                ..packet
            },
            Self::Seen { sequence } => Packet {
                kind: 5,
                sequence,
                ..packet
            },
        };
        let mut bytes = [0; PACKET_BYTES];
        bytes.copy_from_slice(packet.as_bytes());
        bytes
    }

    /// `None` for what is no message.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let packet = Packet::read_from_bytes(bytes).ok()?;
        let sequence = packet.sequence;
        let message = match packet.kind {
            1 => Self::Ready,
            2 => Self::Watch {
                pid: Pid::known(packet.pid)?,
                start_ticks: packet.start_ticks,
                backend: *BACKENDS.get(usize::from(packet.backend))?,
                sequence,
            },
            3 => Self::Forget {
                pid: Pid::known(packet.pid)?,
                sequence,
            },
            4 => Self::Beat { sequence },
            5 => Self::Seen { sequence },
            6 => Self::Busy { sequence },
            _ => return None,
        };
        (packet.mark == MARK).then_some(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn messages_survive_the_way() {
        for backend in BACKENDS {
            let messages = [
                Message::Ready,
                Message::Watch {
                    pid: Pid(4_194_303),
                    start_ticks: u64::MAX,
                    backend,
                    sequence: 7,
                },
                Message::Forget {
                    pid: Pid(1),
                    sequence: 8,
                },
                Message::Beat { sequence: u32::MAX },
                Message::Busy { sequence: 5 },
                Message::Seen { sequence: 0 },
            ];
            for message in messages {
                assert_eq!(Message::decode(&message.encode()), Some(message));
            }
        }
    }

    #[test]
    fn what_is_no_message_is_none() {
        let mut bytes = Message::Beat { sequence: 1 }.encode();
        assert_eq!(Message::decode(&bytes[..PACKET_BYTES - 1]), None);
        assert_eq!(Message::decode(&[]), None);
        bytes[0] ^= 1;
        assert_eq!(Message::decode(&bytes), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            if let Some(message) = Message::decode(&bytes) {
                prop_assert_eq!(Message::decode(&message.encode()), Some(message));
            }
        }
    }
}
