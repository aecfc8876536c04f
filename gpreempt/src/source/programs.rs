// SPDX-License-Identifier: MIT OR Apache-2.0
//! The eBPF object: maps created, instructions relocated, programs loaded on demand.

use std::{
    collections::{BTreeSet, HashMap},
    ffi::CString,
    fs, io,
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
};

use anyhow::{anyhow, ensure, Context as _, Result};
use aya::maps::{Array, Map, MapData, PerCpuArray, RingBuf};
use aya_obj::{EbpfSectionKind, Object};
use gpreempt_common::offsets::Offsets;
use zerocopy::IntoBytes as _;

use super::sys::{self, ProgramKind};

/// The object file, aligned as its ELF header wants. Empty in a build without `GPREEMPT_EBPF_OBJ`.
static OBJECT: &Aligned<[u8]> = &Aligned {
    _align: [],
    #[cfg(gpreempt_ebpf)]
    bytes: *include_bytes!(env!("GPREEMPT_EBPF_OBJ")),
    #[cfg(not(gpreempt_ebpf))]
    bytes: [0; 0],
};

#[repr(C)]
struct Aligned<B: ?Sized> {
    _align: [u64; 0],
    bytes: B,
}

/// Free entries that the kernel may lend each CPU from an LRU map (`LOCAL_FREE_TARGET` of kernel/bpf/bpf_lru_list.c).
const LRU_LENT_PER_CPU: u32 = 128;
/// Threads in KFD calls at the same time, far more than there are.
const THREADS: u32 = 8192;

/// Whether this build has the eBPF programs.
#[must_use]
pub fn embedded() -> bool {
    !OBJECT.bytes.is_empty()
}

/// The object with the maps created that its programs refer to.
pub(super) struct Code {
    object: Object,
    maps: Vec<(String, aya_obj::Map, MapData)>,
}

impl Code {
    /// Creates the maps and puts offsets and map descriptors into the instructions. `size` may give a map another number of
    /// entries than the object does.
    fn new(offsets: &Offsets, size: impl Fn(&str) -> Option<u32>) -> Result<Self> {
        let mut object = parse()?;
        object
            .patch_map_data(HashMap::from([("OFFSETS", (offsets.as_bytes(), true))]))
            .context("the embedded eBPF object has no offset table")?;
        Self::create(object, size)
    }

    /// Of one program that needs one map, and no offsets.
    pub(super) fn of_program(program: &str, map: &str) -> Result<Self> {
        let mut object = parse()?;
        object.programs.retain(|name, _| name == program);
        object.maps.retain(|name, _| name == map);
        let keys: Vec<_> = object.programs.values().map(|p| p.function_key()).collect();
        object.functions.retain(|key, _| keys.contains(key));
        Self::create(object, |_| None)
    }

    fn create(mut object: Object, size: impl Fn(&str) -> Option<u32>) -> Result<Self> {
        let mut maps = Vec::new();
        for (name, mut map) in object.maps.drain() {
            if let Some(entries) = size(&name) {
                map.set_max_entries(entries);
            }
            let data = MapData::create(map.clone(), &name, None).with_context(|| {
                format!(
                    "creating the eBPF map {name} ({} entries)",
                    map.max_entries()
                )
            })?;
            if map.section_kind() == EbpfSectionKind::Rodata {
                // Frozen, its values are constants to the verifier: code for members that this kernel lacks vanishes.
                sys::fill_and_freeze(data.fd().as_fd(), map.data())
                    .with_context(|| format!("filling the eBPF map {name}"))?;
            }
            maps.push((name, map, data));
        }
        let sections: BTreeSet<usize> = object
            .functions
            .keys()
            .map(|(section, _)| *section)
            .collect();
        let sections = sections.into_iter().collect();
        object
            .relocate_maps(
                maps.iter()
                    .map(|(name, map, data)| (name.as_str(), data.fd().as_fd().as_raw_fd(), map)),
                &sections,
            )
            .map_err(|error| anyhow!(error).context("relocating the maps of the eBPF object"))?;
        object
            .relocate_calls(&sections)
            .map_err(|error| anyhow!(error).context("relocating the calls of the eBPF object"))?;
        Ok(Self { object, maps })
    }

    /// Hands a map over.
    pub(super) fn take(&mut self, wanted: &str) -> Result<Map> {
        let index = self.maps.iter().position(|(name, ..)| name == wanted);
        let index =
            index.with_context(|| format!("the embedded eBPF object has no map {wanted}"))?;
        Ok(Map::from_map_data(self.maps.swap_remove(index).2)?)
    }

    /// Loads a program. On refusal the error holds the end of the verifier's log.
    pub(super) fn load(&self, name: &str, kind: ProgramKind<'_>) -> io::Result<OwnedFd> {
        let program = self
            .object
            .programs
            .get(name)
            .ok_or_else(|| io::Error::other(format!("no program {name}")))?;
        let function = self
            .object
            .functions
            .get(&program.function_key())
            .ok_or_else(|| io::Error::other(format!("no code of program {name}")))?;
        let license: &CString = &program.license;
        match sys::load_program(name, kind, &function.instructions, license, &mut []) {
            Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EACCES)) => {
                let mut log = vec![0; 1 << 16];
                let error = match sys::load_program(
                    name,
                    kind,
                    &function.instructions,
                    license,
                    &mut log,
                ) {
                    Ok(program) => return Ok(program),
                    Err(error) => error,
                };
                let end = log.iter().position(|byte| *byte == 0).unwrap_or(log.len());
                let text = String::from_utf8_lossy(&log[..end]).into_owned();
                let last: Vec<_> = text.trim_end().lines().rev().take(3).collect();
                let last: Vec<_> = last.into_iter().rev().collect();
                Err(io::Error::new(
                    error.kind(),
                    format!("{error}: {}", last.join("; ")),
                ))
            }
            other => other,
        }
    }
}

/// Programs with their maps, before and after they are loaded.
pub(super) struct Programs {
    /// Keeps the other maps open: the programs refer to them.
    code: Code,
    /// Records.
    pub(super) ring: RingBuf<MapData>,
    /// [`gpreempt_common::counters::Counter`].
    pub(super) counters: PerCpuArray<MapData, u64>,
    /// What `self_check` found, in words of eight bytes.
    pub(super) checked: Array<MapData, [u8; size_of::<gpreempt_common::record::SelfCheck>()]>,
}

impl Programs {
    /// Creates the maps and puts offsets and map descriptors into the instructions.
    pub(super) fn new(offsets: &Offsets, ring_bytes: u32) -> Result<Self> {
        let mut code = Code::new(offsets, |name| match name {
            "RECORDS" => Some(ring_bytes),
            "THREADS" => Some(LRU_LENT_PER_CPU * possible_cpus() + THREADS),
            _ => None,
        })?;
        let ring = RingBuf::try_from(code.take("RECORDS")?)?;
        let counters = PerCpuArray::try_from(code.take("LOST")?)?;
        let checked = Array::try_from(code.take("CHECKED")?)?;
        Ok(Self {
            code,
            ring,
            counters,
            checked,
        })
    }

    /// As [`Code::load`].
    pub(super) fn load(&self, name: &str, kind: ProgramKind<'_>) -> io::Result<OwnedFd> {
        self.code.load(name, kind)
    }
}

fn parse() -> Result<Object> {
    Object::parse(&OBJECT.bytes).context("the embedded eBPF object cannot be read")
}

/// CPUs that the kernel reserves per-CPU memory for.
fn possible_cpus() -> u32 {
    // "0-3", "0-3,8-11": the last number is the highest.
    let text = fs::read_to_string("/sys/devices/system/cpu/possible").unwrap_or_default();
    let last = text
        .trim()
        .rsplit(['-', ','])
        .next()
        .and_then(|last| last.parse::<u32>().ok());
    last.map_or(1, |last| last + 1)
}

/// Ring buffers are a power of two of whole pages.
pub(super) fn check_ring_bytes(bytes: u32) -> Result<()> {
    ensure!(
        bytes.is_power_of_two() && (4096..=1 << 30).contains(&bytes),
        "a ring buffer of {bytes} bytes is not possible: take a power of two from 4096"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::plan::PLAN;
    use aya_obj::generated::bpf_map_type;

    #[test]
    fn a_ring_is_a_power_of_two() {
        assert!(check_ring_bytes(1 << 20).is_ok());
        for bytes in [0, 1, 2048, 4097, 1 << 31] {
            assert!(check_ring_bytes(bytes).is_err(), "{bytes}");
        }
    }

    /// Needs a build with the programs: `cargo xtask test` does that.
    #[test]
    #[cfg_attr(not(gpreempt_ebpf), ignore = "built without the eBPF programs")]
    fn the_object_has_every_program_of_the_plan_in_both_kinds() {
        let object = Object::parse(&OBJECT.bytes).unwrap();
        let fallbacks = PLAN
            .iter()
            .filter_map(|wanted| wanted.fallback)
            .map(|other| other.programs);
        for programs in PLAN.iter().map(|wanted| wanted.programs).chain(fallbacks) {
            for name in [programs.entry, programs.exit].into_iter().flatten() {
                assert!(object.programs.contains_key(name), "{name}");
                assert!(
                    object.programs.contains_key(&format!("{name}_f")),
                    "{name}_f"
                );
                assert!(name.len() + 2 <= 24, "{name}");
            }
        }
        assert_eq!(
            object.maps["RECORDS"].map_type(),
            bpf_map_type::BPF_MAP_TYPE_RINGBUF as u32
        );
        assert_eq!(
            object.maps["LOST"].map_type(),
            bpf_map_type::BPF_MAP_TYPE_PERCPU_ARRAY as u32
        );
        assert_eq!(
            object.maps["THREADS"].map_type(),
            bpf_map_type::BPF_MAP_TYPE_LRU_HASH as u32
        );
    }
}
