// SPDX-License-Identifier: MIT OR Apache-2.0
//! bpf(2) and perf_event_open(2), as far as this program needs them itself: aya 0.14 can neither load a fentry program for a
//! module's function nor load an object without parsing all of vmlinux's BTF. What is unsafe in the live source is here and in `detach`.
//!
//! Kernel support: all commands used here exist since Linux 5.11.

use std::{
    ffi::CString,
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
};

use aya_obj::generated::bpf_insn;
use tokio::io::{unix::AsyncFd, Interest};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes};

const MAP_UPDATE_ELEM: i32 = 2;
const PROG_LOAD: i32 = 5;
const PROG_TEST_RUN: i32 = 10;
const OBJ_GET_INFO_BY_FD: i32 = 15;
const RAW_TRACEPOINT_OPEN: i32 = 17;
const BTF_GET_FD_BY_ID: i32 = 19;
const MAP_FREEZE: i32 = 22;
const BTF_GET_NEXT_ID: i32 = 23;

const PROG_TYPE_KPROBE: u32 = 2;
const PROG_TYPE_RAW_TRACEPOINT: u32 = 17;
const PROG_TYPE_TRACING: u32 = 26;
const TRACE_FENTRY: u32 = 24;
const TRACE_FEXIT: u32 = 25;

const PERF_FLAG_FD_CLOEXEC: u64 = 8;
/// `_IOW('$', 8, __u32)`.
const PERF_EVENT_IOC_SET_BPF: u64 = 0x4004_2408;
/// `_IO('$', 0)`.
const PERF_EVENT_IOC_ENABLE: u64 = 0x2400;

/// What kind of program is loaded, and for which function where the kernel wants to know at load.
#[derive(Clone, Copy)]
pub(super) enum ProgramKind<'a> {
    /// Entry or return: the perf event decides.
    Kprobe,
    /// To be run by [`run_once`].
    RawTracepoint,
    /// Entry of the function with this BTF id, in the BTF object or in vmlinux.
    Fentry(Option<BorrowedFd<'a>>, u32),
    /// Return, likewise.
    Fexit(Option<BorrowedFd<'a>>, u32),
}

#[derive(FromZeros, IntoBytes, Immutable)]
#[repr(C)]
struct ProgLoadAttr {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
    prog_ifindex: u32,
    expected_attach_type: u32,
    prog_btf_fd: u32,
    func_info_rec_size: u32,
    func_info: u64,
    func_info_cnt: u32,
    line_info_rec_size: u32,
    line_info: u64,
    line_info_cnt: u32,
    attach_btf_id: u32,
    attach_btf_obj_fd: u32,
    padding: u32,
}

#[derive(FromZeros, IntoBytes, Immutable)]
#[repr(C)]
struct MapElemAttr {
    map_fd: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

#[derive(FromZeros, IntoBytes, Immutable)]
#[repr(C)]
struct IdAttr {
    id: u32,
    next_id: u32,
    open_flags: u32,
}

#[derive(FromZeros, IntoBytes, Immutable)]
#[repr(C)]
struct InfoAttr {
    fd: u32,
    info_len: u32,
    info: u64,
}

#[derive(FromZeros, IntoBytes, Immutable)]
#[repr(C)]
struct RawTracepointAttr {
    name: u64,
    prog_fd: u32,
    padding: u32,
}

#[derive(FromZeros, IntoBytes, Immutable)]
#[repr(C)]
struct TestRunAttr {
    prog_fd: u32,
    retval: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    ctx_size_in: u32,
    ctx_size_out: u32,
    ctx_in: u64,
    ctx_out: u64,
    flags: u32,
    cpu: u32,
    batch_size: u32,
    padding: u32,
}

#[derive(FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct BtfInfo {
    btf: u64,
    btf_size: u32,
    id: u32,
    name: u64,
    name_len: u32,
    kernel_btf: u32,
}

/// Head of `struct bpf_prog_info`.
#[derive(FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct ProgInfo {
    before: [u64; 24],
    run_time_ns: u64,
    run_cnt: u64,
    recursion_misses: u64,
    verified_insns: u32,
    attach_btf_obj_id: u32,
    attach_btf_id: u32,
    padding: u32,
}

/// `struct perf_event_attr` of `PERF_ATTR_SIZE_VER1`.
#[derive(FromZeros, IntoBytes, Immutable)]
#[repr(C)]
struct PerfEventAttr {
    kind: u32,
    size: u32,
    config: u64,
    sample_period: u64,
    sample_type: u64,
    read_format: u64,
    flags: u64,
    wakeup_events: u32,
    bp_type: u32,
    kprobe_func: u64,
    probe_offset: u64,
}

/// What the kernel says of a loaded program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProgramInfo {
    /// Instructions that the verifier walked. 0 before Linux 5.16.
    pub verified_insns: u32,
    /// Runs skipped because the program was already running on that CPU.
    pub recursion_misses: u64,
}

fn bpf<A: IntoBytes + Immutable>(command: i32, attr: &mut A) -> io::Result<i64> {
    // SAFETY: attr is a plain struct of the size passed; the pointers in it are to memory that the caller keeps alive
    // over the call and whose length is in the same struct.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_mut(attr),
            size_of::<A>(),
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

fn owned(fd: i64) -> OwnedFd {
    // SAFETY: the kernel has just returned this descriptor to us, close-on-exec, and nobody else knows it. It fits an i32.
    #[allow(clippy::cast_possible_truncation)]
    unsafe {
        OwnedFd::from_raw_fd(fd as i32)
    }
}

#[allow(clippy::cast_sign_loss)]
fn raw(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd() as u32
}

fn address<T: ?Sized>(of: &T) -> u64 {
    std::ptr::from_ref(of).cast::<u8>() as u64
}

/// Loads a program. The verifier's complaint goes to `log`, which may be empty.
pub(super) fn load_program(
    name: &str,
    kind: ProgramKind<'_>,
    instructions: &[bpf_insn],
    license: &CString,
    log: &mut [u8],
) -> io::Result<OwnedFd> {
    let mut attr = ProgLoadAttr::new_zeroed();
    match kind {
        ProgramKind::Kprobe => attr.prog_type = PROG_TYPE_KPROBE,
        ProgramKind::RawTracepoint => attr.prog_type = PROG_TYPE_RAW_TRACEPOINT,
        ProgramKind::Fentry(btf, id) | ProgramKind::Fexit(btf, id) => {
            attr.prog_type = PROG_TYPE_TRACING;
            attr.expected_attach_type = if matches!(kind, ProgramKind::Fentry(..)) {
                TRACE_FENTRY
            } else {
                TRACE_FEXIT
            };
            attr.attach_btf_id = id;
            attr.attach_btf_obj_fd = btf.map_or(0, raw);
        }
    }
    attr.insn_cnt = u32::try_from(instructions.len()).map_err(io::Error::other)?;
    attr.insns = instructions.as_ptr() as u64;
    attr.license = license.as_ptr() as u64;
    // 15 bytes and a NUL; the kernel takes letters, digits, '_' and '.'.
    for (slot, byte) in attr.prog_name[..15].iter_mut().zip(name.bytes()) {
        *slot = byte;
    }
    if !log.is_empty() {
        attr.log_level = 1;
        attr.log_size = u32::try_from(log.len()).map_err(io::Error::other)?;
        attr.log_buf = log.as_mut_ptr() as u64;
    }
    bpf(PROG_LOAD, &mut attr).map(owned)
}

/// Writes the only element of an array map, then makes the map read-only for good.
pub(super) fn fill_and_freeze(map: BorrowedFd<'_>, value: &[u8]) -> io::Result<()> {
    let key = 0_u32;
    let mut attr = MapElemAttr::new_zeroed();
    attr.map_fd = raw(map);
    attr.key = address(&key);
    attr.value = address(value);
    bpf(MAP_UPDATE_ELEM, &mut attr)?;
    let mut attr = raw(map);
    bpf(MAP_FREEZE, &mut attr)?;
    Ok(())
}

/// The BTF object of a loaded module. Needs CAP_SYS_ADMIN. `None` where the module has no BTF.
pub(super) fn module_btf(module: &str) -> io::Result<Option<OwnedFd>> {
    let mut id = 0;
    loop {
        let mut next = IdAttr {
            id,
            next_id: 0,
            open_flags: 0,
        };
        match bpf(BTF_GET_NEXT_ID, &mut next) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(None),
            other => other?,
        };
        id = next.next_id;
        let mut by_id = IdAttr {
            id,
            next_id: 0,
            open_flags: 0,
        };
        let fd = match bpf(BTF_GET_FD_BY_ID, &mut by_id) {
            // Gone in between.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => continue,
            other => owned(other?),
        };
        let mut name = [0_u8; 64];
        let mut info = BtfInfo {
            btf: 0,
            btf_size: 0,
            id: 0,
            name: name.as_mut_ptr() as u64,
            name_len: 64,
            kernel_btf: 0,
        };
        get_info(fd.as_fd(), &mut info)?;
        let length = name
            .iter()
            .position(|byte| *byte == 0)
            .unwrap_or(name.len());
        if info.kernel_btf == 1 && &name[..length] == module.as_bytes() {
            return Ok(Some(fd));
        }
    }
}

fn get_info<I: FromBytes + IntoBytes + Immutable>(
    fd: BorrowedFd<'_>,
    info: &mut I,
) -> io::Result<()> {
    let mut attr = InfoAttr {
        fd: raw(fd),
        info_len: u32::try_from(size_of::<I>()).map_err(io::Error::other)?,
        info: std::ptr::from_mut(info) as u64,
    };
    bpf(OBJ_GET_INFO_BY_FD, &mut attr).map(drop)
}

/// What the kernel counted for a program.
pub(super) fn program_info(program: BorrowedFd<'_>) -> io::Result<ProgramInfo> {
    let mut info = ProgInfo::new_zeroed();
    get_info(program, &mut info)?;
    Ok(ProgramInfo {
        verified_insns: info.verified_insns,
        recursion_misses: info.recursion_misses,
    })
}

/// Runs a raw tracepoint program once, in the calling thread.
pub(super) fn run_once(program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = TestRunAttr::new_zeroed();
    attr.prog_fd = raw(program);
    bpf(PROG_TEST_RUN, &mut attr).map(drop)
}

/// Runs a raw tracepoint program once with these arguments. What it returns.
pub(super) fn run_with(program: BorrowedFd<'_>, arguments: [u64; 2]) -> io::Result<i32> {
    let mut attr = TestRunAttr::new_zeroed();
    attr.prog_fd = raw(program);
    attr.ctx_in = address(&arguments);
    attr.ctx_size_in = u32::try_from(size_of_val(&arguments)).map_err(io::Error::other)?;
    bpf(PROG_TEST_RUN, &mut attr)?;
    Ok(attr.retval.cast_signed())
}

/// Attaches a fentry or fexit program; it stays until the link is closed.
pub(super) fn attach_tracing(program: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let mut attr = RawTracepointAttr {
        name: 0,
        prog_fd: raw(program),
        padding: 0,
    };
    bpf(RAW_TRACEPOINT_OPEN, &mut attr).map(owned)
}

/// Attaches a program to a kprobe (or kretprobe) on `symbol` (`module:function`); it stays until the event is closed.
/// `pmu` is the number in /sys/bus/event_source/devices/kprobe/type, `return_bit` the bit of `config` for a return probe.
pub(super) fn attach_kprobe(
    program: BorrowedFd<'_>,
    pmu: u32,
    return_bit: Option<u32>,
    symbol: &str,
) -> io::Result<OwnedFd> {
    let symbol = CString::new(symbol)?;
    let mut attr = PerfEventAttr::new_zeroed();
    attr.kind = pmu;
    attr.size = u32::try_from(size_of::<PerfEventAttr>()).map_err(io::Error::other)?;
    attr.config = return_bit.map_or(0, |bit| 1 << bit);
    attr.kprobe_func = symbol.as_ptr() as u64;
    // SAFETY: attr has the size it says and points to a C string that outlives the call. A kprobe event is for all
    // processes, yet perf wants a CPU: pid -1, CPU 0; the program runs on every CPU.
    let event = unsafe {
        libc::syscall(
            libc::SYS_perf_event_open,
            std::ptr::from_ref(&attr),
            -1,
            0,
            -1,
            PERF_FLAG_FD_CLOEXEC,
        )
    };
    if event < 0 {
        return Err(io::Error::last_os_error());
    }
    let event = owned(event);
    for (request, argument) in [
        (PERF_EVENT_IOC_SET_BPF, raw(program)),
        (PERF_EVENT_IOC_ENABLE, 0),
    ] {
        // SAFETY: both requests take a plain number.
        if unsafe { libc::ioctl(event.as_raw_fd(), request as _, argument) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(event)
}

/// Registers a descriptor with the runtime's poller. Must be called within the runtime.
pub(super) fn poll_readable(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the descriptor is owned by the AsyncFd, which deregisters it before it closes it, and OwnedFd always returns
    // the same one.
    unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }.map_err(io::Error::from)
}

/// Has all threads share one heap, for a program that is to stay small for weeks: of the heap of a thread that parsed BTF, two
/// megabytes stay behind.
pub fn share_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: glibc's mallopt takes two numbers and may be called at any time.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// Gives freed memory back to the system: parsing BTF takes much more than running does.
pub(super) fn trim_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: glibc's malloc_trim takes a number and may be called at any time.
    unsafe {
        libc::malloc_trim(0);
    }
}
