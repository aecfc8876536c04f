// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a hint over the library costs, beside a bare round trip on a Unix socket: `cargo xtask bench react` runs it. The daemon is the
//! program that `$GPREEMPT_PROGRAM` names; the bare side is this program again, which answers as many bytes as the daemon does. They are
//! measured on one processor, where an answer takes a change of processes, and with client and server on two, where one has to wake the
//! other: left alone, the scheduler has either side change between the two, and the ratio says nothing. One JSON line for each.

use std::ffi::CString;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use gpreempt_c::abi::GPREEMPT_OK;
use gpreempt_c::calls::{gpreempt_close, gpreempt_hint_begin, gpreempt_hint_end, gpreempt_open};
use gpreempt_common::hint::{Ask, Reply};
use nix::sched::{sched_getaffinity, sched_setaffinity, CpuSet};
use nix::unistd::Pid;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

const ROUNDS: usize = 3000;

/// What is thrown away at first: connections are made, memory is mapped.
const WARM: usize = 200;

fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().collect();
    match arguments.get(1).map(String::as_str) {
        Some("answer") => answer(&arguments[2..]),
        _ => {
            let mask = sched_getaffinity(Pid::from_raw(0))?;
            let processors: Vec<usize> = (0..CpuSet::count())
                .filter(|processor| mask.is_set(*processor).unwrap_or(false))
                .collect();
            let (first, last) = processors
                .first()
                .zip(processors.last())
                .ok_or("no processor")?;
            measure(*first, *first)?;
            if first != last {
                measure(*first, *last)?;
            }
            Ok(())
        }
    }
}

/// This thread, and those and the processes that it starts from now on, run there.
fn run_on(processor: usize) -> Outcome<()> {
    let mut mask = CpuSet::new();
    mask.set(processor)?;
    Ok(sched_setaffinity(Pid::from_raw(0), &mask)?)
}

/// Ends with its owner.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn connect(path: &Path) -> Outcome<UnixStream> {
    let until = Instant::now() + Duration::from_secs(30);
    loop {
        match UnixStream::connect(path) {
            Ok(stream) => return Ok(stream),
            Err(error) if Instant::now() > until => return Err(error.into()),
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}

/// The bare side: reads so many bytes, writes so many, and again with other numbers.
fn answer(arguments: &[String]) -> Outcome<()> {
    let (path, sizes) = arguments.split_first().ok_or("no socket")?;
    let sizes: Vec<usize> = sizes
        .iter()
        .map(|size| size.parse())
        .collect::<Result<_, _>>()?;
    let (mut stream, _) = UnixListener::bind(path)?.accept()?;
    let mut buffer = vec![0; sizes.iter().copied().max().unwrap_or(0)];
    loop {
        for pair in sizes.chunks(2) {
            if stream.read_exact(&mut buffer[..pair[0]]).is_err() {
                return Ok(());
            }
            stream.write_all(&buffer[..pair[1]])?;
        }
    }
}

/// Bytes of: begin, its answer, end, its answer.
const SIZES: [usize; 4] = [
    size_of::<Ask>(),
    size_of::<Reply>(),
    size_of::<Ask>(),
    size_of::<Reply>(),
];

fn check(code: i32) -> Outcome<()> {
    match code {
        GPREEMPT_OK => Ok(()),
        code => Err(format!("libgpreempt answers {code}").into()),
    }
}

fn measure(client: usize, server: usize) -> Outcome<()> {
    run_on(server)?;
    let program =
        std::env::var_os("GPREEMPT_PROGRAM").ok_or("GPREEMPT_PROGRAM names no program")?;
    let dir = tempfile::tempdir()?;
    let at = |name: &str| dir.path().join(name);
    std::fs::write(
        at("gpreempt.toml"),
        format!("[serve]\naudit = \"{}\"\n", at("audit").display()),
    )?;
    let _daemon = Running(
        Command::new(program)
            .arg("serve")
            .arg("--config")
            .arg(at("gpreempt.toml"))
            .arg("--socket")
            .arg(at("socket"))
            .stdin(Stdio::null())
            .spawn()?,
    );
    // It listens.
    drop(connect(&at("socket"))?);
    let _bare = Running(
        Command::new(std::env::current_exe()?)
            .arg("answer")
            .arg(at("bare"))
            .args(SIZES.map(|size| size.to_string()))
            .spawn()?,
    );
    run_on(client)?;
    let mut bare = connect(&at("bare"))?;
    let mut buffer = vec![0; SIZES.into_iter().max().unwrap_or(0)];
    let socket = CString::new(at("socket").as_os_str().as_bytes())?;
    let mut handle = std::ptr::null_mut();
    // SAFETY: the path ends with a NUL, and `handle` can be written.
    check(unsafe { gpreempt_open(socket.as_ptr(), &raw mut handle) })?;
    let (mut bare_ns, mut hint_ns) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS + WARM {
        for turn in 0..2 {
            let started = Instant::now();
            let times = if (round + turn).is_multiple_of(2) {
                for pair in SIZES.chunks(2) {
                    bare.write_all(&buffer[..pair[0]])?;
                    bare.read_exact(&mut buffer[..pair[1]])?;
                }
                &mut bare_ns
            } else {
                let (mut id, mut took) = (0, 0);
                // SAFETY: the handle is open, no options are given, and `id` can be written.
                check(unsafe { gpreempt_hint_begin(handle, std::ptr::null(), &raw mut id) })?;
                // SAFETY: the handle is open, and `took` can be written.
                check(unsafe { gpreempt_hint_end(handle, id, &raw mut took) })?;
                &mut hint_ns
            };
            if round >= WARM {
                times.push(started.elapsed().as_nanos());
            }
        }
    }
    // SAFETY: it was opened above, and no call is going on.
    unsafe { gpreempt_close(handle) };
    let processors = 1 + usize::from(client != server);
    println!("{{\"processors\":{processors},\"sizes\":{SIZES:?},\"bare_ns\":{bare_ns:?},\"hint_ns\":{hint_ns:?}}}");
    Ok(())
}
