// SPDX-License-Identifier: MIT OR Apache-2.0
//! One record, as it lay in the ring buffer, to one [`Happening`].

use std::fmt;

use gpreempt_common::record::{self as rec, Body, Header};
use zerocopy::FromBytes;

use super::{
    Cause, Comm, Event, EvictReason, GpuId, Happening, Hold, HoldCause, Pid, QueueFormat, QueueId,
    QueueType, ResetPhase, UnmapFilter,
};

/// A record that this version does not understand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Undecoded {
    /// Fewer bytes than a header.
    NoHeader {
        /// Bytes there are.
        len: usize,
    },
    /// A kind that is not known here.
    UnknownKind {
        /// The kind.
        kind: u16,
        /// Bytes there are.
        len: usize,
    },
    /// The size is not that of the kind, or not the one that the header states.
    WrongSize {
        /// The kind.
        kind: u16,
        /// Bytes there are.
        len: usize,
        /// Bytes that the header states.
        stated: u16,
        /// Bytes that a record of this kind has.
        expected: usize,
    },
}

impl fmt::Display for Undecoded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::NoHeader { len } => {
                write!(f, "a record of {len} bytes is shorter than its header")
            }
            Self::UnknownKind { kind, len } => {
                write!(f, "record kind {kind} ({len} bytes) is unknown")
            }
            Self::WrongSize {
                kind,
                len,
                stated,
                expected,
            } => {
                write!(f, "a record of kind {kind} has {len} bytes and states {stated}, but that kind has {expected}")
            }
        }
    }
}

impl std::error::Error for Undecoded {}

/// The first of several records that lie one after the other, and the rest. Bytes that are no record are one.
#[must_use]
pub fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let len = match Header::read_from_prefix(bytes) {
        Ok((header, _)) => usize::from(header.len).clamp(1, bytes.len()),
        Err(_) => bytes.len(),
    };
    (len > 0).then(|| bytes.split_at(len))
}

/// When a record was written, if it is long enough to tell.
#[must_use]
pub fn time_of(record: &[u8]) -> Option<u64> {
    let (header, _) = Header::read_from_prefix(record).ok()?;
    Some(header.ts_ns)
}

/// Decodes one record. Alignment does not matter.
///
/// # Errors
/// [`Undecoded`] says what is wrong with the bytes; decoding goes on with the next record.
pub fn decode(bytes: &[u8]) -> Result<Happening, Undecoded> {
    let Ok((header, rest)) = Header::read_from_prefix(bytes) else {
        return Err(Undecoded::NoHeader { len: bytes.len() });
    };
    let event = match header.kind {
        rec::PROCESS_ATTACHED => {
            let b: rec::ProcessAttached = body(&header, rest)?;
            Event::ProcessAttached {
                start_boottime_ns: b.start_boottime_ns,
                cgroup_id: b.cgroup_id,
                ns_pid: known(b.ns_pid),
                comm: Comm::new(b.comm),
            }
        }
        rec::PROCESS_EXITED => {
            let b: rec::ProcessExited = body(&header, rest)?;
            Event::ProcessExited {
                start_boottime_ns: b.start_boottime_ns,
                ns_pid: known(b.ns_pid),
                comm: Comm::new(b.comm),
            }
        }
        rec::QUEUE_CREATED => {
            let b: rec::QueueCreated = body(&header, rest)?;
            Event::QueueCreated {
                gpu_id: GpuId(b.gpu_id),
                queue_id: QueueId(b.queue_id),
                queue_type: QueueType::from_raw(b.queue_type),
                format: QueueFormat::from_raw(b.format),
                ring_bytes: b.ring_bytes,
                priority: b.priority,
                percent: b.percent,
                doorbell: b.doorbell,
                evicted: b.evicted != 0,
                comm: Comm::new(b.comm),
            }
        }
        rec::QUEUE_UPDATED => {
            let b: rec::QueueUpdated = body(&header, rest)?;
            Event::QueueUpdated {
                gpu_id: GpuId(b.gpu_id),
                queue_id: QueueId(b.queue_id),
                priority: b.priority,
                percent: b.percent,
                active: b.active != 0,
            }
        }
        rec::QUEUE_DESTROYED => {
            let b: rec::QueueDestroyed = body(&header, rest)?;
            Event::QueueDestroyed {
                gpu_id: GpuId(b.gpu_id),
                queue_id: QueueId(b.queue_id),
            }
        }
        rec::QUEUE_REJECTED => {
            let _: rec::QueueRejected = body(&header, rest)?;
            Event::QueueRejected
        }
        rec::RUNLIST_UNMAPPED => {
            let b: rec::RunlistUnmapped = body(&header, rest)?;
            Event::RunlistUnmapped {
                gpu_id: GpuId(b.gpu_id),
                filter: UnmapFilter::from_raw(b.filter),
                lock_wait_ns: b.lock_wait_ns,
                fence_ns: b.fence_ns,
            }
        }
        rec::RUNLIST_MAPPED => {
            let b: rec::RunlistMapped = body(&header, rest)?;
            Event::RunlistMapped {
                gpu_id: GpuId(b.gpu_id),
                queues: b.queues,
                cp_queues: b.cp_queues,
                processes: b.processes,
                oversubscribed: b.oversubscribed != 0,
            }
        }
        rec::PROCESS_EVICTED => {
            let b: rec::ProcessEvicted = body(&header, rest)?;
            Event::ProcessEvicted {
                gpu_id: GpuId(b.gpu_id),
                reason: EvictReason::from_raw(b.reason),
                depth: b.depth,
            }
        }
        rec::PROCESS_RESTORED => {
            let b: rec::ProcessRestored = body(&header, rest)?;
            Event::ProcessRestored {
                gpu_id: GpuId(b.gpu_id),
                depth: b.depth,
            }
        }
        rec::QUEUES_SUSPENDED => {
            let b: rec::QueuesSuspended = body(&header, rest)?;
            Event::QueuesSuspended {
                count: b.count,
                requested: b.requested,
            }
        }
        rec::QUEUES_RESUMED => {
            let b: rec::QueuesResumed = body(&header, rest)?;
            Event::QueuesResumed {
                count: b.count,
                requested: b.requested,
            }
        }
        rec::GPU_RESET => {
            let b: rec::GpuReset = body(&header, rest)?;
            Event::GpuReset {
                gpu_id: GpuId(b.gpu_id),
                phase: ResetPhase::from_raw(b.phase),
            }
        }
        rec::QUEUES_HELD => {
            let b: rec::QueuesHeld = body(&header, rest)?;
            Event::QueuesHeld(Hold {
                gpu_id: GpuId(b.gpu_id),
                count: b.count,
                owner_pid: Pid::known(b.owner_pid),
                cause: HoldCause::from_raw(b.cause),
                lock_wait_ns: b.lock_wait_ns,
                hw_ns: b.hw_ns,
            })
        }
        rec::QUEUES_RELEASED => {
            let b: rec::QueuesReleased = body(&header, rest)?;
            Event::QueuesReleased(Hold {
                gpu_id: GpuId(b.gpu_id),
                count: b.count,
                owner_pid: Pid::known(b.owner_pid),
                cause: HoldCause::from_raw(b.cause),
                lock_wait_ns: b.lock_wait_ns,
                hw_ns: b.hw_ns,
            })
        }
        kind => {
            return Err(Undecoded::UnknownKind {
                kind,
                len: bytes.len(),
            })
        }
    };
    Ok(Happening {
        ts_ns: header.ts_ns,
        total_ns: header.total_ns,
        cause: Cause::from_raw(header.cause),
        status: header.status,
        pid: Pid::known(header.pid),
        actor_pid: Pid(header.actor_pid),
        actor_tid: header.actor_tid,
        event,
    })
}

fn body<B: Body>(header: &Header, rest: &[u8]) -> Result<B, Undecoded> {
    let expected = size_of::<Header>() + size_of::<B>();
    let len = size_of::<Header>() + rest.len();
    let wrong = Undecoded::WrongSize {
        kind: header.kind,
        len,
        stated: header.len,
        expected,
    };
    if usize::from(header.len) != expected {
        return Err(wrong);
    }
    B::read_from_bytes(rest).map_err(|_| wrong)
}

fn known(raw: u32) -> Option<u32> {
    (raw != 0).then_some(raw)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use zerocopy::IntoBytes;

    fn header(kind: u16, body_bytes: usize) -> Header {
        Header {
            ts_ns: 5,
            total_ns: 7,
            len: u16::try_from(size_of::<Header>() + body_bytes).unwrap(),
            kind,
            cause: rec::cause::EVICT,
            reserved: 0,
            status: -62,
            pid: 212,
            actor_pid: 9,
            actor_tid: 10,
        }
    }

    fn bytes(header: &Header, body: &[u8]) -> Vec<u8> {
        [header.as_bytes(), body].concat()
    }

    #[test]
    fn every_kind_of_the_contract_is_known() {
        for (name, kind, size) in rec::KINDS {
            let happening = decode(&bytes(&header(*kind, *size), &vec![0; *size])).expect(name);
            assert_eq!(happening.pid, Some(Pid(212)), "{name}");
            assert_eq!(happening.cause, Cause::Evict, "{name}");
            let snake = happening.event.kind().name().replace('_', "");
            assert_eq!(
                snake,
                name.to_lowercase(),
                "the kind is decoded as its own event"
            );
        }
        assert_eq!(
            rec::KINDS.len() + 1,
            Kind::COUNT,
            "all but queue_existing, which no record tells"
        );
    }
    use super::super::Kind;

    #[test]
    fn fields_arrive_where_they_belong() {
        let body = rec::RunlistUnmapped {
            lock_wait_ns: 1,
            fence_ns: 2,
            gpu_id: 0x52a1,
            filter: 2,
        };
        let got = decode(&bytes(&header(rec::RUNLIST_UNMAPPED, 24), body.as_bytes())).unwrap();
        assert_eq!(got.status, -62);
        assert_eq!(
            (got.ts_ns, got.total_ns, got.actor_pid, got.actor_tid),
            (5, 7, Pid(9), 10)
        );
        assert_eq!(
            got.event,
            Event::RunlistUnmapped {
                gpu_id: GpuId(0x52a1),
                filter: UnmapFilter::Dynamic,
                lock_wait_ns: 1,
                fence_ns: 2
            }
        );
    }

    #[test]
    fn holds_name_their_owner_and_cause() {
        let body = rec::QueuesReleased {
            lock_wait_ns: 3,
            hw_ns: 4,
            gpu_id: 0x52a1,
            count: 2,
            owner_pid: 300,
            cause: rec::hold_cause::LEASE,
        };
        let hold = Hold {
            gpu_id: GpuId(0x52a1),
            count: 2,
            owner_pid: Some(Pid(300)),
            cause: HoldCause::Lease,
            lock_wait_ns: 3,
            hw_ns: 4,
        };
        let bytes = bytes(&header(rec::QUEUES_RELEASED, 32), body.as_bytes());
        assert_eq!(decode(&bytes).unwrap().event, Event::QueuesReleased(hold));
        assert_eq!(HoldCause::from_raw(77), HoldCause::Unknown);
        // Every cause has its own name, in the order of the driver's numbers.
        for (raw, cause) in (0..7).zip(HoldCause::ALL) {
            assert_eq!(HoldCause::from_raw(raw), *cause);
        }
    }

    #[test]
    fn what_is_not_understood_is_told() {
        assert_eq!(decode(&[1, 2, 3]), Err(Undecoded::NoHeader { len: 3 }));
        assert_eq!(
            decode(&bytes(&header(999, 0), &[])),
            Err(Undecoded::UnknownKind { kind: 999, len: 40 })
        );
        let short = bytes(&header(rec::GPU_RESET, 8), &[0; 4]);
        let expected = Undecoded::WrongSize {
            kind: rec::GPU_RESET,
            len: 44,
            stated: 48,
            expected: 48,
        };
        assert_eq!(decode(&short), Err(expected));
        let long = bytes(&header(rec::GPU_RESET, 8), &[0; 16]);
        assert!(matches!(
            decode(&long),
            Err(Undecoded::WrongSize { len: 56, .. })
        ));
        let lying = bytes(&header(rec::GPU_RESET, 16), &[0; 8]);
        assert!(matches!(
            decode(&lying),
            Err(Undecoded::WrongSize { stated: 56, .. })
        ));
    }

    proptest! {
        #[test]
        fn any_bytes_are_safe(noise in proptest::collection::vec(any::<u8>(), 0..160)) {
            let _ = decode(&noise);
        }

        #[test]
        fn any_body_of_the_right_size_decodes(which in 0..rec::KINDS.len(), noise in proptest::collection::vec(any::<u8>(), 120)) {
            let (_, kind, size) = rec::KINDS[which];
            prop_assert!(decode(&bytes(&header(kind, size), &noise[..size])).is_ok());
        }

        #[test]
        fn any_cut_is_told(which in 0..rec::KINDS.len(), cut in 1usize..=48) {
            let (_, kind, size) = rec::KINDS[which];
            let whole = bytes(&header(kind, size), &vec![0; size]);
            prop_assert!(decode(&whole[..whole.len() - cut.min(whole.len())]).is_err());
        }
    }
}
