// SPDX-License-Identifier: MIT OR Apache-2.0
//! Packets to a file: tracks are described before they are used, names are written once and referred to by number. Every packet is
//! whole on its own, so a file that was cut off is readable up to there.

use std::borrow::Cow;
use std::collections::HashMap;
use std::io::{self, BufWriter, Write};

use prost::encoding::{encode_key, encode_varint, WireType};
use prost::Message as _;

use super::proto::{
    Clock, ClockSnapshot, CounterDescriptor, DebugAnnotation, EventType, InternedData, Name,
    ProcessDescriptor, TracePacket, TracePacketDefaults, TrackDescriptor, TrackEvent,
    CLOCK_BOOTTIME, CLOCK_REALTIME, NEEDS_STATE, STATE_CLEARED, TRACE_PACKET, UNIT_COUNT,
};
use super::track::Track;
use crate::event::{Comm, Pid};

const BUFFER_BYTES: usize = 64 * 1024;

/// Our packets' sequence: far from the small numbers that Perfetto's own services count from, so that files can be joined.
const SEQUENCE: u32 = 0x6770_7265;

/// Names of slices and of arguments. They come from closed vocabularies, which bounds what is remembered of them.
pub(super) type SliceName = Cow<'static, str>;

/// What a slice says beyond its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    Bool(bool),
    Uint(u64),
    Int(i64),
    Text(String),
}

/// Arguments of a slice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Args(Vec<(&'static str, Value)>);

impl Args {
    pub(super) fn new() -> Self {
        Self::default()
    }

    pub(super) fn uint(self, name: &'static str, value: impl Into<u64>) -> Self {
        self.with(name, Value::Uint(value.into()))
    }

    pub(super) fn bool(self, name: &'static str, value: bool) -> Self {
        self.with(name, Value::Bool(value))
    }

    pub(super) fn text(self, name: &'static str, value: impl ToString) -> Self {
        self.with(name, Value::Text(value.to_string()))
    }

    /// A process that did something: its pid, and its name where it is known.
    pub(super) fn by(self, pid: Option<Pid>, comm: Option<Comm>) -> Self {
        let args = match pid {
            Some(pid) => self.uint("by_pid", pid.0),
            None => self,
        };
        match comm {
            Some(comm) => args.text("by_comm", comm),
            None => args,
        }
    }

    /// The result of a call, where it is an error.
    pub(super) fn status(self, status: i32) -> Self {
        if status >= 0 {
            return self;
        }
        self.with("status", Value::Int(status.into()))
            .text("errno", crate::sink::record::errno_name(status))
    }

    fn with(mut self, name: &'static str, value: Value) -> Self {
        self.0.push((name, value));
        self
    }
}

/// Writes packets.
#[derive(Debug)]
pub(super) struct Packets<W: Write> {
    out: BufWriter<W>,
    buffer: Vec<u8>,
    slice_names: Interned,
    arg_names: Interned,
    /// Nothing was written yet.
    first: bool,
}

impl<W: Write> Packets<W> {
    pub(super) fn new(out: W) -> Self {
        Self {
            out: BufWriter::with_capacity(BUFFER_BYTES, out),
            buffer: Vec::new(),
            slice_names: Interned::default(),
            arg_names: Interned::default(),
            first: true,
        }
    }

    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    /// The same moment on two clocks.
    pub(super) fn clocks(&mut self, boottime_ns: u64, realtime_ns: u64) -> io::Result<()> {
        let clock = |id, timestamp| Clock {
            clock_id: Some(id),
            timestamp: Some(timestamp),
        };
        let clocks = vec![
            clock(CLOCK_BOOTTIME, boottime_ns),
            clock(CLOCK_REALTIME, realtime_ns),
        ];
        self.packet(TracePacket {
            timestamp: Some(boottime_ns),
            clock_snapshot: Some(ClockSnapshot { clocks }),
            ..TracePacket::default()
        })
    }

    /// A track of this name below another one, or at the top.
    pub(super) fn track(
        &mut self,
        track: Track,
        parent: Option<Track>,
        name: &str,
        description: Option<&str>,
    ) -> io::Result<()> {
        self.describe(TrackDescriptor {
            uuid: Some(track.0),
            parent_uuid: parent.map(|parent| parent.0),
            name: Some(name.to_owned()),
            description: description.map(str::to_owned),
            ..TrackDescriptor::default()
        })
    }

    /// A track that counts something.
    pub(super) fn counter_track(
        &mut self,
        track: Track,
        parent: Track,
        name: &str,
    ) -> io::Result<()> {
        self.describe(TrackDescriptor {
            uuid: Some(track.0),
            parent_uuid: Some(parent.0),
            name: Some(name.to_owned()),
            counter: Some(CounterDescriptor {
                unit: Some(UNIT_COUNT),
            }),
            ..TrackDescriptor::default()
        })
    }

    /// The track of a process, which other tracks of it hang below. Written again when its name becomes known or changes.
    pub(super) fn process_track(
        &mut self,
        track: Track,
        pid: Pid,
        comm: Option<Comm>,
    ) -> io::Result<()> {
        self.describe(TrackDescriptor {
            uuid: Some(track.0),
            process: Some(ProcessDescriptor {
                pid: i32::try_from(pid.0).ok(),
                process_name: comm.map(|comm| comm.to_string()),
            }),
            ..TrackDescriptor::default()
        })
    }

    fn describe(&mut self, descriptor: TrackDescriptor) -> io::Result<()> {
        self.packet(TracePacket {
            track_descriptor: Some(descriptor),
            ..TracePacket::default()
        })
    }

    /// A slice begins; `flows` join it with other slices that carry the same numbers.
    pub(super) fn begin(
        &mut self,
        track: Track,
        ts_ns: u64,
        name: &SliceName,
        args: &Args,
        flows: Vec<u64>,
    ) -> io::Result<()> {
        self.named(EventType::SliceBegin, track, ts_ns, name, args, flows)
    }

    /// The slice that was begun last on the track ends.
    pub(super) fn end(&mut self, track: Track, ts_ns: u64) -> io::Result<()> {
        self.event(
            ts_ns,
            TrackEvent {
                r#type: Some(EventType::SliceEnd.into()),
                track_uuid: Some(track.0),
                ..TrackEvent::default()
            },
            InternedData::default(),
        )
    }

    /// Something that has no duration.
    pub(super) fn instant(
        &mut self,
        track: Track,
        ts_ns: u64,
        name: &SliceName,
        args: &Args,
    ) -> io::Result<()> {
        self.named(EventType::Instant, track, ts_ns, name, args, Vec::new())
    }

    pub(super) fn count(&mut self, track: Track, ts_ns: u64, value: u32) -> io::Result<()> {
        self.event(
            ts_ns,
            TrackEvent {
                r#type: Some(EventType::Counter.into()),
                track_uuid: Some(track.0),
                counter_value: Some(value.into()),
                ..TrackEvent::default()
            },
            InternedData::default(),
        )
    }

    fn named(
        &mut self,
        kind: EventType,
        track: Track,
        ts_ns: u64,
        name: &SliceName,
        args: &Args,
        flow_ids: Vec<u64>,
    ) -> io::Result<()> {
        let mut interned = InternedData::default();
        let name_iid = self.slice_names.number(name, &mut interned.event_names);
        let mut debug_annotations = Vec::with_capacity(args.0.len());
        for (name, value) in &args.0 {
            let number = self
                .arg_names
                .number(name, &mut interned.debug_annotation_names);
            let mut annotation = DebugAnnotation {
                name_iid: Some(number),
                ..DebugAnnotation::default()
            };
            match value {
                Value::Bool(value) => annotation.bool_value = Some(*value),
                Value::Uint(value) => annotation.uint_value = Some(*value),
                Value::Int(value) => annotation.int_value = Some(*value),
                Value::Text(value) => annotation.string_value = Some(value.clone()),
            }
            debug_annotations.push(annotation);
        }
        let event = TrackEvent {
            debug_annotations,
            r#type: Some(kind.into()),
            name_iid: Some(name_iid),
            track_uuid: Some(track.0),
            flow_ids,
            ..TrackEvent::default()
        };
        self.event(ts_ns, event, interned)
    }

    fn event(&mut self, ts_ns: u64, event: TrackEvent, interned: InternedData) -> io::Result<()> {
        let none = interned == InternedData::default();
        self.packet(TracePacket {
            timestamp: Some(ts_ns),
            track_event: Some(event),
            interned_data: (!none).then_some(interned),
            ..TracePacket::default()
        })
    }

    fn packet(&mut self, mut packet: TracePacket) -> io::Result<()> {
        packet.trusted_packet_sequence_id = Some(SEQUENCE);
        packet.sequence_flags = Some(NEEDS_STATE);
        if self.first {
            self.first = false;
            packet.sequence_flags = Some(STATE_CLEARED | NEEDS_STATE);
            packet.trace_packet_defaults = Some(TracePacketDefaults {
                timestamp_clock_id: Some(CLOCK_BOOTTIME),
            });
        }
        self.buffer.clear();
        encode_key(TRACE_PACKET, WireType::LengthDelimited, &mut self.buffer);
        // A length is no more than what a Vec can hold.
        encode_varint(packet.encoded_len() as u64, &mut self.buffer);
        packet
            .encode(&mut self.buffer)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        self.out.write_all(&self.buffer)
    }
}

/// Names that were written already, by number.
#[derive(Debug, Default)]
struct Interned(HashMap<SliceName, u64>);

impl Interned {
    /// The number of a name, which goes to `new` the first time.
    fn number(&mut self, name: &str, new: &mut Vec<Name>) -> u64 {
        if let Some(number) = self.0.get(name) {
            return *number;
        }
        // 0 stands for no name.
        let number = self.0.len() as u64 + 1;
        self.0.insert(Cow::Owned(name.to_owned()), number);
        new.push(Name {
            iid: Some(number),
            name: Some(name.to_owned()),
        });
        number
    }
}
