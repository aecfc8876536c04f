// SPDX-License-Identifier: MIT OR Apache-2.0
//! The live source: eBPF programs loaded, attached to amdkfd and read through their ring buffer.

use std::{
    fs, io,
    os::fd::{AsFd as _, OwnedFd},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;
use aya::maps::{MapData, PerCpuArray, RingBuf};
use gpreempt_common::counters::Counter;
use gpreempt_common::offsets::Offsets;
use gpreempt_common::record::{Header, KINDS};
use tokio::io::unix::AsyncFd;

use super::{
    attach::{Attach, Attached, Fentry},
    backlog::Backlog,
    driver,
    offsets::{self, Resolved},
    permission::{kprobe_source, lockdown, Capabilities},
    plan::{self, PLAN},
    profile::Profile,
    programs::{self, Programs},
    symbols::{Symbols, VMLINUX},
    sys, verify, Counters, ProbeSet, Startup,
};

/// Records that are in no hurry do not wake the reader: it looks at least this often.
const TICK: Duration = Duration::from_millis(100);

/// The same for the daemon, to which these say nothing, and which looks around more often than that.
const DAEMON_TICK: Duration = Duration::from_secs(60);

/// After so many records the ring is emptied again, so that it does not fill up while they are looked at.
const SLICE: usize = 256;

/// Bytes of the longest record there is.
const LONGEST_RECORD: usize = {
    let (mut longest, mut n) = (0, 0);
    while n < KINDS.len() {
        let (_, _, body) = KINDS[n];
        if body > longest {
            longest = body;
        }
        n += 1;
    }
    size_of::<Header>() + longest
};

/// What to attach and how.
#[derive(Clone, Debug)]
pub struct LiveOptions {
    /// Which probes.
    pub probes: ProbeSet,
    /// Bytes of the ring buffer: a power of two, at least a page.
    pub ring_bytes: u32,
    /// Offset profile to use instead of BTF.
    pub profile: Option<PathBuf>,
}

impl Default for LiveOptions {
    fn default() -> Self {
        Self {
            probes: ProbeSet::Full,
            ring_bytes: 1 << 20,
            profile: None,
        }
    }
}

/// Why there is no live source. Every message ends with what the user can do.
#[derive(Debug, thiserror::Error)]
pub enum LiveError {
    /// A capability is missing.
    #[error("no permission to observe the kernel, which takes {capability}: run as root, or grant that to the program")]
    NoPermission {
        /// Name of the capability, or names.
        capability: String,
    },
    /// Nothing in this kernel carries amdkfd.
    #[error("{0}")]
    NoDriver(String),
    /// This kernel cannot run the programs.
    #[error("{0}")]
    BpfUnsupported(String),
    /// Probes or struct members without which no record can be attributed.
    #[error("{0}")]
    MissingRequired(String),
    /// No offsets of kernel structs, or none to be trusted.
    #[error("{0}")]
    NoOffsets(String),
    /// Built without the eBPF object.
    #[error("this gpreempt was built without its eBPF programs: build it with `cargo xtask build`, which embeds them")]
    NoPrograms,
    /// Anything else.
    #[error(transparent)]
    Other(#[from] anyhow::Error),
}

impl LiveError {
    /// Exit code of the program.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::NoPermission { .. } => 77,
            Self::Other(_) => 1,
            Self::NoDriver(_)
            | Self::BpfUnsupported(_)
            | Self::MissingRequired(_)
            | Self::NoOffsets(_)
            | Self::NoPrograms => 69,
        }
    }
}

/// One loaded program, for `doctor` and tests.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct ProgramCost {
    /// Name of the program; ends in `_f` if it is attached by fentry.
    pub program: String,
    /// Function it is attached to, or the first of them.
    pub symbol: String,
    /// Instructions that the verifier walked to accept it. 0 = this kernel does not say.
    pub verified_insns: u32,
}

/// Programs attached to the running kernel. Dropped, they are detached in the background, see [`Live::stop`].
pub struct Live {
    startup: Startup,
    own_pid: u32,
    attached: Attached,
    ring: RingBuf<MapData>,
    counters: PerCpuArray<MapData, u64>,
    /// The ring's descriptor in the runtime's poller; made at the first wait, because only then there must be a runtime.
    backlog: Backlog,
    poller: Option<AsyncFd<OwnedFd>>,
    tick: Duration,
}

impl Live {
    /// Loads and attaches the programs.
    ///
    /// # Errors
    /// See [`LiveError`].
    pub fn start(options: &LiveOptions) -> Result<Self, LiveError> {
        Self::start_with(options, Attach::Auto)
    }

    /// As [`Live::start`], with a say in how the programs are attached.
    ///
    /// # Errors
    /// See [`LiveError`].
    pub fn start_with(options: &LiveOptions, attach: Attach) -> Result<Self, LiveError> {
        programs::check_ring_bytes(options.ring_bytes)?;
        let (capabilities, symbols) = ready()?;
        let fentry_wanted = attach == Attach::Auto && capabilities.can_use_fentry();
        let Offered {
            resolved,
            source,
            fentry,
        } = offsets_and_functions(options, &symbols, fentry_wanted)?;
        sys::trim_heap();

        let planned = plan::resolve(&symbols, options.probes);
        let absent: Vec<_> = planned
            .iter()
            .filter(|planned| planned.wanted.required && planned.symbols.is_empty())
            .map(|planned| {
                format!(
                    "{} ({})",
                    planned.wanted.function,
                    planned.note.as_deref().unwrap_or("absent")
                )
            })
            .collect();
        if !absent.is_empty() {
            return Err(missing_required(&symbols, &absent));
        }
        let kprobes = kprobe_source();
        if kprobes.is_none() && fentry.functions.is_empty() {
            return Err(LiveError::BpfUnsupported(
                "this kernel has neither kprobes nor BTF of the driver: it needs CONFIG_KPROBE_EVENTS and CONFIG_BPF_EVENTS"
                    .to_owned(),
            ));
        }

        let programs = Programs::new(&resolved.offsets, options.ring_bytes).map_err(from_kernel)?;
        let own_pid =
            verify::self_check(&programs, &resolved.offsets).map_err(|error| {
                match denied(&error) {
                    true => from_kernel(error),
                    false => LiveError::NoOffsets(format!("{error:#}")),
                }
            })?;
        let mut attached = Attached::new(kprobes, fentry);
        let mut probes = Vec::new();
        let mut failed = Vec::new();
        for planned in &planned {
            if planned.symbols.is_empty() {
                probes.push(planned.to_probe(false, None));
                continue;
            }
            if planned.wanted.patched && !resolved.knows_holds() {
                let reason = "the offsets of kfd_gpreempt_op and kfd_gpreempt_note are not known: extract the profile again \
                              from the patched driver";
                probes.push(planned.to_probe(false, Some(reason.to_owned())));
                continue;
            }
            match attached.attach(&programs, &symbols, planned) {
                Ok(()) => probes.push(planned.to_probe(true, None)),
                Err(error)
                    if error.kind() == io::ErrorKind::PermissionDenied
                        && planned.wanted.required =>
                {
                    return Err(from_kernel(
                        anyhow::Error::new(error).context("attaching programs"),
                    ));
                }
                Err(error) => {
                    if planned.wanted.required {
                        failed.push(format!("{} ({error})", planned.wanted.function));
                    }
                    probes.push(planned.to_probe(false, Some(error.to_string())));
                }
            }
        }
        if !failed.is_empty() {
            return Err(missing_required(&symbols, &failed));
        }
        let Programs { ring, counters, .. } = programs;
        let module = symbols.module.clone();
        drop((symbols, planned));
        sys::trim_heap();
        // After that: the process that it makes has the memory of this moment, too.
        attached.complete();
        let startup = Startup {
            kernel: release(),
            module_version: driver::version(&Path::new("/sys/module").join(&module)),
            module,
            offsets: source,
            probes,
            ring_bytes: options.ring_bytes,
        };
        Ok(Self {
            startup,
            own_pid,
            attached,
            ring,
            counters,
            backlog: Backlog::default(),
            poller: None,
            tick: match options.probes {
                ProbeSet::Daemon => DAEMON_TICK,
                _ => TICK,
            },
        })
    }

    /// What was found at the start.
    #[must_use]
    pub fn startup(&self) -> &Startup {
        &self.startup
    }

    /// This process as records name it: in the initial pid namespace.
    #[must_use]
    pub fn own_pid(&self) -> u32 {
        self.own_pid
    }

    /// Waits until there are records, then hands over all of them. Cancel-safe: no record is lost when the future is dropped.
    ///
    /// # Errors
    /// When the ring cannot be polled.
    pub async fn read(&mut self, each: &mut dyn FnMut(&[u8])) -> anyhow::Result<()> {
        loop {
            if self.drain_counted(each) > 0 {
                return Ok(());
            }
            if self.poller.is_none() {
                let fd = self
                    .ring
                    .as_fd()
                    .try_clone_to_owned()
                    .context("duplicating the ring's descriptor")?;
                self.poller = Some(sys::poll_readable(fd).context("polling the ring buffer")?);
            }
            if let Some(poller) = &self.poller {
                // A timeout is no error: it is the tick of records that wake nobody.
                if let Ok(ready) = tokio::time::timeout(self.tick, poller.readable()).await {
                    ready.context("polling the ring buffer")?.clear_ready();
                }
            }
        }
    }

    /// Hands over all records that are there, without waiting.
    pub fn drain(&mut self, each: &mut dyn FnMut(&[u8])) {
        self.drain_counted(each);
    }

    fn drain_counted(&mut self, each: &mut dyn FnMut(&[u8])) -> usize {
        let mut count = 0;
        loop {
            self.empty_ring();
            for _ in 0..SLICE {
                let Some(record) = self.backlog.pop() else {
                    return count;
                };
                each(record);
                count += 1;
            }
        }
    }

    /// Moves what is in the ring to the backlog, as far as it fits.
    fn empty_ring(&mut self) {
        while self.backlog.has_room(LONGEST_RECORD) {
            let Some(record) = self.ring.next() else {
                return;
            };
            self.backlog.push(&record);
        }
    }

    fn sum(&self, counter: Counter) -> u64 {
        let index = counter as u32;
        // The map has been created with this index, so there is nothing to fail.
        self.counters
            .get(&index, 0)
            .map_or(0, |values| values.iter().sum())
    }

    /// Sums of the counters since the start.
    #[must_use]
    pub fn counters(&self) -> Counters {
        // A program that is not run because it is already running on that CPU is a call that was not seen.
        let skipped: u64 = self
            .attached
            .infos()
            .map(|(.., info)| info.recursion_misses)
            .sum();
        Counters {
            ring_full: self.sum(Counter::RingFull),
            unmatched: self.sum(Counter::Unmatched) + skipped,
            read_fault: self.sum(Counter::ReadFault),
            written: self.sum(Counter::Written),
        }
    }

    /// Whether what was seen so far contradicts the offset table: a queue whose process is not the one that created it. Cheap;
    /// meant to be called now and then.
    ///
    /// # Errors
    /// When it does: nothing that came from this source can be trusted.
    pub fn verify(&self) -> Result<(), LiveError> {
        match self.sum(Counter::Mismatch) {
            0 => Ok(()),
            mismatches => Err(LiveError::NoOffsets(format!(
                "{mismatches} queues seemed to belong to another process than the one that created them: the struct offsets \
                 ({}) are not those of the loaded driver; extract a profile from its own module (gpreempt doctor \
                 --extract-offsets)",
                self.startup.offsets
            ))),
        }
    }

    /// Detaches and waits until it is done, some four seconds. Dropping does the same without waiting: for some seconds the
    /// programs are still there, and the module cannot be unloaded.
    pub fn stop(self) {
        self.attached.detach_and_wait();
    }

    /// What the verifier spent on each program.
    #[must_use]
    pub fn costs(&self) -> Vec<ProgramCost> {
        let infos = self.attached.infos();
        infos
            .map(|(program, symbol, info)| ProgramCost {
                program: program.to_owned(),
                symbol: symbol.to_owned(),
                verified_insns: info.verified_insns,
            })
            .collect()
    }
}

/// Whether programs can be loaded here, and the driver to look at.
pub(super) fn ready() -> Result<(Capabilities, Symbols), LiveError> {
    if !programs::embedded() {
        return Err(LiveError::NoPrograms);
    }
    let capabilities = Capabilities::of_this_process();
    let missing = capabilities.missing();
    if !missing.is_empty() {
        return Err(LiveError::NoPermission {
            capability: missing.join(" and "),
        });
    }
    if let Some(reason) = lockdown() {
        return Err(LiveError::BpfUnsupported(reason));
    }
    let symbols = Symbols::of_running_kernel()?.ok_or_else(|| {
        LiveError::NoDriver(
            "no amdkfd in this kernel: the driver is not loaded, or was built without CONFIG_HSA_AMD; load it \
             (modprobe amdgpu)"
                .to_owned(),
        )
    })?;
    Ok((capabilities, symbols))
}

/// The offset table for the loaded driver.
pub(super) fn offsets(profile: Option<&Path>, symbols: &Symbols) -> Result<Offsets, LiveError> {
    let options = LiveOptions {
        profile: profile.map(Path::to_owned),
        ..LiveOptions::default()
    };
    let offered = offsets_and_functions(&options, symbols, false)?;
    sys::trim_heap();
    Ok(offered.resolved.offsets)
}

/// What the offset source has to offer.
struct Offered {
    resolved: Resolved,
    source: String,
    fentry: Fentry,
}

fn offsets_and_functions(
    options: &LiveOptions,
    symbols: &Symbols,
    fentry: bool,
) -> Result<Offered, LiveError> {
    let offered = match &options.profile {
        Some(path) => {
            let no_offsets = |error: anyhow::Error| LiveError::NoOffsets(format!("{error:#}"));
            let profile = Profile::load(path).map_err(no_offsets)?;
            profile.check_module(&Path::new("/sys/module").join(&symbols.module), &release()).map_err(no_offsets)?;
            let source = format!("profile:{}", path.display());
            Offered { resolved: profile.resolve(), source, fentry: Fentry::default() }
        }
        None => from_btf(symbols, fentry).map_err(|error| {
            LiveError::NoOffsets(format!(
                "no BTF of {}: {error:#}; rebuild the driver with BTF, or extract an offset profile from a build of it that has \
                 BTF (gpreempt doctor --extract-offsets amdgpu.ko) and pass it with --profile",
                symbols.module
            ))
        })?,
    };
    let missing = offered.resolved.missing_required();
    if !missing.is_empty() {
        return Err(LiveError::MissingRequired(format!(
            "the driver's structs lack what no record can do without: {}; this driver is not supported by this version: update \
             gpreempt",
            missing.join(", ")
        )));
    }
    Ok(offered)
}

/// Offsets and functions by BTF.
fn from_btf(symbols: &Symbols, fentry: bool) -> anyhow::Result<Offered> {
    let vmlinux = offsets::open_sys_btf(VMLINUX, None)?;
    let module = match symbols.module.as_str() {
        VMLINUX => None,
        name => Some(offsets::open_sys_btf(name, Some(&vmlinux))?),
    };
    let btf = module.as_ref().unwrap_or(&vmlinux);
    let mut functions = Fentry::default();
    if fentry {
        // Where the descriptor cannot be had, kprobes do.
        functions.btf = match &module {
            None => None,
            Some(_) => sys::module_btf(&symbols.module).ok().flatten(),
        };
        if module.is_none() || functions.btf.is_some() {
            let fallbacks = PLAN.iter().filter_map(|wanted| wanted.fallback);
            let names: Vec<_> = PLAN
                .iter()
                .map(|wanted| wanted.function)
                .chain(fallbacks.map(|other| other.function))
                .collect();
            functions.functions = btf.functions(&names);
            // The kernel looks the address up by name: a name that two functions bear could be either.
            functions
                .functions
                .retain(|name, _| symbols.count(name) == 1);
        }
    }
    Ok(Offered {
        resolved: offsets::resolve(btf),
        source: "btf".to_owned(),
        fentry: functions,
    })
}

fn missing_required(symbols: &Symbols, what: &[String]) -> LiveError {
    LiveError::MissingRequired(format!(
        "functions of {} that no record can do without cannot be probed: {}; this driver is not supported by this version: \
         update gpreempt",
        symbols.module,
        what.join(", ")
    ))
}

fn denied(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause
            .downcast_ref::<io::Error>()
            .is_some_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
    })
}

/// An error of the kernel while loading: permission, or something else.
pub(super) fn from_kernel(error: anyhow::Error) -> LiveError {
    if denied(&error) {
        // The capabilities are there, but perhaps not in the initial user namespace.
        LiveError::NoPermission {
            capability: format!(
                "CAP_BPF and CAP_PERFMON in the initial user namespace ({error:#})"
            ),
        }
    } else {
        LiveError::Other(error)
    }
}

/// `uname -r`.
pub(super) fn release() -> String {
    fs::read_to_string("/proc/sys/kernel/osrelease")
        .map_or_else(|_| String::new(), |text| text.trim().to_owned())
}
