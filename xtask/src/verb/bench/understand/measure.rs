// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a program takes of time, of its own and of ours, with its output thrown away or on a terminal.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{ensure, Context, Result};
use nix::pty::{openpty, Winsize};
use nix::sys::resource::{getrusage, UsageWho};
use nix::sys::time::TimeValLike as _;

/// What a run took.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spent {
    /// User and system time of all its threads.
    pub(super) cpu: Duration,
    /// From start to end.
    pub(super) wall: Duration,
}

/// Of a program whose output nobody reads.
pub(super) fn spent(program: &Path, arguments: &[&str]) -> Result<Spent> {
    let mut command = Command::new(program);
    command
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    run(&mut command)
}

/// Of a program on a terminal that is read as it writes.
pub(super) fn spent_on_terminal(program: &Path, arguments: &[&str]) -> Result<Spent> {
    let size = Winsize {
        ws_row: 40,
        ws_col: 120,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    let pair = openpty(Some(&size), None).context("make a terminal")?;
    let mut master = File::from(pair.master);
    // It ends with an error when the last one who has the other side is gone.
    let reader = thread::spawn(move || {
        let mut bytes = 0;
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = master.read(&mut buffer) {
            bytes += count;
        }
        bytes
    });
    let other = |slave: &std::os::fd::OwnedFd| -> Result<Stdio> { Ok(slave.try_clone()?.into()) };
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env("TERM", "xterm")
        .stdin(other(&pair.slave)?)
        .stdout(other(&pair.slave)?)
        .stderr(other(&pair.slave)?);
    let spent = run(&mut command);
    drop((command, pair.slave));
    let shown = reader.join().unwrap_or(0);
    let spent = spent?;
    ensure!(shown > 0, "nothing was shown on the terminal");
    Ok(spent)
}

fn run(command: &mut Command) -> Result<Spent> {
    // Of children that have ended: no other ends meanwhile.
    let before = children()?;
    let start = Instant::now();
    let status = command
        .status()
        .with_context(|| format!("run {command:?}"))?;
    let wall = start.elapsed();
    ensure!(status.success(), "{command:?} ended with {status}");
    Ok(Spent {
        cpu: children()?.saturating_sub(before),
        wall,
    })
}

fn children() -> Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).context("getrusage")?;
    let micros = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    Ok(Duration::from_micros(u64::try_from(micros)?))
}

/// What a program prints.
pub(super) fn output(program: &Path, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("run {}", program.display()))?;
    ensure!(
        output.status.success(),
        "{} ended with {}",
        program.display(),
        output.status
    );
    String::from_utf8(output.stdout).context("output that is not UTF-8")
}

/// Median rates of the benchmarks of decoding, in events a second. `cargo` is `cargo bench` of the package.
pub(super) fn rates(cargo: &mut Command) -> Result<BTreeMap<String, f64>> {
    cargo.args([
        "--bench",
        "decode",
        "--",
        "decode_and_model",
        "--min-time",
        "1",
        "--color",
        "never",
    ]);
    let output = cargo.output().context("run cargo bench")?;
    ensure!(
        output.status.success(),
        "cargo bench ended with {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(read_rates(&String::from_utf8_lossy(&output.stdout)))
}

/// The table that divan prints: a line of times for each benchmark, and below it the rates, of which the third is the median.
fn read_rates(table: &str) -> BTreeMap<String, f64> {
    let lines: Vec<&str> = table.lines().collect();
    lines
        .windows(2)
        .filter_map(|pair| {
            let name = pair[0]
                .trim_start_matches(['├', '╰', '─', ' '])
                .split_whitespace()
                .next()?;
            Some((
                name.to_owned(),
                rate(
                    pair[1]
                        .split('│')
                        .filter(|cell| !cell.trim().is_empty())
                        .nth(2)?,
                )?,
            ))
        })
        .collect()
}

/// `13.49 Mitem/s`.
fn rate(cell: &str) -> Option<f64> {
    let (number, unit) = cell.trim().split_once(' ')?;
    let scale = match unit {
        "item/s" => 1.0,
        "Kitem/s" => 1e3,
        "Mitem/s" => 1e6,
        "Gitem/s" => 1e9,
        _ => return None,
    };
    Some(number.parse::<f64>().ok()? * scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_medians_by_name() {
        let table = "\
decode                          fastest       │ slowest       │ median        │ mean          │ samples │ iters
├─ decode_and_model             183.7 µs      │ 9.783 ms      │ 200 µs        │ 300.2 µs      │ 3306    │ 3306
│                               21.77 Mitem/s │ 408.8 Kitem/s │ 19.99 Mitem/s │ 13.32 Mitem/s │         │
╰─ decode_and_model_512_queues  109.4 µs      │ 6.122 ms      │ 124.9 µs      │ 164.5 µs      │ 6089    │ 6089
                                27.42 Mitem/s │ 489.9 Kitem/s │ 900 Kitem/s   │ 18.23 Mitem/s │         │
";
        let rates = read_rates(table);
        assert_eq!(rates.get("decode_and_model"), Some(&19.99e6));
        assert_eq!(rates.get("decode_and_model_512_queues"), Some(&900e3));
        assert!(read_rates("nothing ran\n").is_empty());
    }

    #[test]
    fn time_of_a_child_is_its_own() {
        let spin = "n=0; while [ $n -lt 20000 ]; do n=$((n+1)); done";
        let busy = spent(Path::new("/bin/sh"), &["-c", spin]).unwrap();
        let idle = spent(Path::new("/bin/sh"), &["-c", "sleep 0.2"]).unwrap();
        assert!(busy.cpu > Duration::ZERO);
        assert!(idle.wall >= Duration::from_millis(200) && idle.cpu < idle.wall);
        assert!(spent(Path::new("/bin/sh"), &["-c", "exit 3"]).is_err());
    }

    #[test]
    fn a_terminal_is_one() {
        let program = Path::new("/bin/sh");
        assert!(
            spent_on_terminal(program, &["-c", "test -t 0 && test -t 1 && echo shown"]).is_ok()
        );
        assert!(spent_on_terminal(program, &["-c", "true"]).is_err());
    }
}
