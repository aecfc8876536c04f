// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask bench overhead`: what watching costs.
//!
//! Two guests. In the first the clock counts instructions, so that a call has an exact price; it has one processor, and
//! nothing that waits for another thread can be measured in it. In the second time is time, as far as an emulated
//! machine has any: there two things are run in turn and compared by median and P90.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Deserialize;

use super::guest_lines;
use crate::guests::{Wish, Workshop};
use crate::project::Project;
use crate::vm::config::Hardware;

/// Instruction counting runs one guest processor at a fraction of the usual speed.
const DEADLINE: Duration = Duration::from_secs(20 * 60);

/// A line of `vm-bench`.
#[derive(Debug, Deserialize)]
#[serde(tag = "bench", rename_all = "snake_case")]
enum Line {
    Calls {
        tracer: String,
        result: Calls,
    },
    Cycles {
        tracer: String,
        result: Cycles,
    },
    Burst {
        ring: String,
        made: u64,
        seen: u64,
        lost: u64,
        idle_rss_bytes: u64,
        peak_rss_bytes: u64,
    },
    Programs {
        probes: String,
        programs: Vec<Program>,
    },
}

#[derive(Debug, Deserialize)]
struct Calls {
    per_call_ns: f64,
}

#[derive(Debug, Deserialize)]
struct Cycles {
    create_ns: Times,
    update_off_ns: Times,
    update_on_ns: Times,
    destroy_ns: Times,
}

#[derive(Debug, Deserialize)]
struct Times {
    median: f64,
    p90: f64,
}

/// A loaded eBPF program.
#[derive(Debug, Deserialize)]
struct Program {
    program: String,
    symbol: String,
    /// 0 = the kernel does not say.
    verified_insns: u64,
}

/// Measures and makes the document.
pub(super) fn measure(project: &Project) -> Result<String> {
    let exact = Wish {
        hardware: Hardware {
            cpus: 1,
            icount: true,
            ..Hardware::default()
        },
        ..Wish::sim("bench-exact")
    };
    let timed = Wish::sim("bench-timed");
    let workshop = Workshop::open(project, &[exact.clone(), timed.clone()])?;

    let calls = lines(&guest_lines(
        project,
        &workshop,
        &exact,
        DEADLINE,
        &["calls", "programs"],
    )?)?;
    let rest = lines(&guest_lines(
        project,
        &workshop,
        &timed,
        DEADLINE,
        &["cycles", "burst"],
    )?)?;
    let kernel = workshop.guest(&exact)?.kernel.release();

    let mut page = format!(
        "# What watching costs\n\n\
         Printed by `cargo xtask bench overhead --write docs/overhead.md`; not written by hand. Linux {kernel}, unmodified amdkfd on the \
         simulated GPU, in QEMU without hardware acceleration.\n"
    );
    call_table(&mut page, &calls)?;
    cycle_table(&mut page, &rest)?;
    burst_table(&mut page, &rest)?;
    program_table(&mut page, &calls)?;
    Ok(page)
}

fn lines(values: &[serde_json::Value]) -> Result<Vec<Line>> {
    values
        .iter()
        .map(|value| Line::deserialize(value).with_context(|| format!("line of vm-bench: {value}")))
        .collect()
}

fn call_table(page: &mut String, lines: &[Line]) -> Result<()> {
    let mut by_tracer: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for line in lines {
        if let Line::Calls { tracer, result } = line {
            by_tracer
                .entry(tracer)
                .or_default()
                .push(result.per_call_ns);
        }
    }
    let of = |tracer: &str| -> Result<f64> {
        let rounds = by_tracer
            .get(tracer)
            .with_context(|| format!("no measurement with {tracer}"))?;
        Ok(quantile(rounds, 50))
    };
    let bare = of("none")?;
    let pair = of("ftrace_pair")? - bare;
    page.push_str(
        "\n## One CREATE_QUEUE that fails early\n\n\
         Guest instructions per call, exact: the guest's clock counts instructions (`-icount shift=0,sleep=off`), the caller is real-time, the \
         call never reaches the hardware. Median of 3 rounds of 2,000 calls; the rounds are interleaved. `watch` writes one record per call, \
         with its duration, errno and caller.\n\n\
         | tracer | instructions per call | added | added / ftrace pair |\n|---|---:|---:|---:|\n",
    );
    for (tracer, name) in [
        ("none", "none"),
        ("ftrace_entry", "ftrace kprobe event, entry only"),
        ("ftrace_pair", "ftrace kprobe events, entry and return"),
        ("watch_minimal", "`watch --probes minimal`"),
        ("watch_full", "`watch --probes full`"),
        ("watch_kprobe", "`watch --attach kprobe`"),
    ] {
        let total = of(tracer)?;
        let added = total - bare;
        let ratio = if tracer == "none" {
            "".to_owned()
        } else {
            format!("{:.2}", added / pair)
        };
        writeln!(page, "| {name} | {total:.0} | {added:.0} | {ratio} |")?;
    }
    Ok(())
}

fn cycle_table(page: &mut String, lines: &[Line]) -> Result<()> {
    page.push_str(
        "\n## A queue created, unmapped, mapped and destroyed\n\n\
         Microseconds per ioctl in user space, 10 interleaved rounds of 40 cycles without and with `watch --probes full`; median of the rounds' \
         medians and of their P90s. Emulated time: read only the ratios.\n\n\
         | ioctl | median alone | with watch | ratio | P90 alone | with watch | ratio |\n|---|---:|---:|---:|---:|---:|---:|\n",
    );
    type Pick = fn(&Cycles) -> &Times;
    let steps: [(&str, Pick); 4] = [
        ("CREATE_QUEUE", |cycle| &cycle.create_ns),
        ("UPDATE_QUEUE to 0 %", |cycle| &cycle.update_off_ns),
        ("UPDATE_QUEUE to 100 %", |cycle| &cycle.update_on_ns),
        ("DESTROY_QUEUE", |cycle| &cycle.destroy_ns),
    ];
    for (name, pick) in steps {
        let of = |wanted: &str, figure: fn(&Times) -> f64| {
            let rounds: Vec<f64> = lines
                .iter()
                .filter_map(|line| match line {
                    Line::Cycles { tracer, result } if tracer == wanted => {
                        Some(figure(pick(result)) / 1000.0)
                    }
                    _ => None,
                })
                .collect();
            quantile(&rounds, 50)
        };
        write!(page, "| {name} |")?;
        for figure in [(|times| times.median) as fn(&Times) -> f64, |times| {
            times.p90
        }] {
            let (alone, watched) = (of("none", figure), of("watch_full", figure));
            write!(
                page,
                " {alone:.0} | {watched:.0} | {:.2} |",
                watched / alone
            )?;
        }
        page.push('\n');
    }
    Ok(())
}

fn burst_table(page: &mut String, lines: &[Line]) -> Result<()> {
    page.push_str(
        "\n## Events as fast as one thread makes them\n\n\
         Rejected CREATE_QUEUE calls in a loop; `watch --format json` writes to memory. `seen` are the records in its output, `lost` is what its \
         summary says; together they must be what was made. Resident memory of `watch` from /proc/PID/status.\n\n\
         | ring | made | seen | lost | seen + lost - made | idle, MiB | peak, MiB |\n|---|---:|---:|---:|---:|---:|---:|\n",
    );
    for line in lines {
        if let Line::Burst {
            ring,
            made,
            seen,
            lost,
            idle_rss_bytes,
            peak_rss_bytes,
        } = line
        {
            let difference = i128::from(*seen) + i128::from(*lost) - i128::from(*made);
            writeln!(
                page,
                "| {ring} | {made} | {seen} | {lost} | {difference} | {:.1} | {:.1} |",
                mib(*idle_rss_bytes),
                mib(*peak_rss_bytes)
            )?;
        }
    }
    Ok(())
}

fn program_table(page: &mut String, lines: &[Line]) -> Result<()> {
    page.push_str(
        "\n## Programs\n\nInstructions that the verifier walked through, over all paths; 0 where the kernel does not say.\n",
    );
    for line in lines {
        if let Line::Programs { probes, programs } = line {
            writeln!(page, "\n`--probes {probes}`: {} programs\n", programs.len())?;
            page.push_str("| program | function | instructions |\n|---|---|---:|\n");
            for Program {
                program,
                symbol,
                verified_insns,
            } in programs
            {
                writeln!(page, "| `{program}` | `{symbol}` | {verified_insns} |")?;
            }
        }
    }
    Ok(())
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// Nearest rank; NaN of nothing, which nobody takes for a figure.
pub(super) fn quantile(samples: &[f64], percent: usize) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (sorted.len() * percent).div_ceil(100).max(1) - 1;
    sorted.get(rank).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ratio_is_of_what_was_added() {
        let calls = [
            ("none", 1000.0),
            ("ftrace_entry", 2000.0),
            ("ftrace_pair", 3000.0),
            ("watch_minimal", 1900.0),
            ("watch_full", 2000.0),
            ("watch_kprobe", 2600.0),
        ];
        let lines: Vec<Line> = calls
            .iter()
            .map(|&(tracer, per_call_ns)| Line::Calls {
                tracer: tracer.to_owned(),
                result: Calls { per_call_ns },
            })
            .collect();
        let mut page = String::new();
        call_table(&mut page, &lines).unwrap();
        assert!(
            page.contains("| `watch --probes full` | 2000 | 1000 | 0.50 |"),
            "{page}"
        );
        assert!(call_table(&mut page, &lines[1..]).is_err());
    }

    #[test]
    fn quantiles_are_nearest_rank_and_nothing_has_none() {
        assert_eq!(quantile(&[3.0, 1.0, 2.0], 50), 2.0);
        assert!(quantile(&[], 50).is_nan());
    }
}
