// SPDX-License-Identifier: MIT OR Apache-2.0
//! `bench preempt` without a GPU: a rig whose latencies are a formula.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use common::{gpreempt as program, Tree};
use gpreempt::bench::record::{
    self, BackendState, EndKind, Environment, Operation, Process, SCHEMA,
};
use gpreempt::bench::{
    html, run, table, Count, Cycle, End, Findings, Options, Plan, Report, Rig, Seen,
};
use gpreempt::control::{
    BackendKind, ControlError, Outcome, Refusal, Target, TargetOutcome, TargetQueue,
};
use gpreempt::event::{Comm, GpuId, Pid, QueueId, QueueType};
use gpreempt::sink::record::Id64;
use nix::errno::Errno;
use snapbox::{assert_data_eq, str};

const GPU: GpuId = GpuId(0xcf19);

fn job(sizes: &[u32], comm: &[u8]) -> Vec<Target> {
    (100..)
        .zip(sizes)
        .map(|(pid, size)| Target {
            pid: Pid(pid),
            start_ticks: 7,
            comm: Comm::from_procfs(comm),
            queues: (0..*size)
                .map(|id| TargetQueue {
                    gpu_id: GPU,
                    queue_id: QueueId(id),
                    queue_type: QueueType::Compute,
                })
                .collect(),
            whole: true,
        })
        .collect()
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    None,
    /// Every call of a backend is refused.
    Refused(BackendKind),
    /// The GPU does not answer this call.
    TimesOut(u32),
    /// This call fails.
    Fails(u32),
    /// A signal before this call.
    Signal(u32),
    /// Restarting fails for good after this call.
    Sticks(u32),
}

struct Fake {
    trouble: Trouble,
    calls: u32,
    /// What is stopped, by whom.
    held: BTreeMap<(Pid, TargetQueue), BackendKind>,
    cycles: Vec<Cycle>,
    random: u64,
    slept: Duration,
}

impl Fake {
    fn new(trouble: Trouble) -> Self {
        Self {
            trouble,
            calls: 0,
            held: BTreeMap::new(),
            cycles: Vec::new(),
            random: 1,
            slept: Duration::ZERO,
        }
    }

    /// Spread with a tail: most near 1, some far above.
    fn noise(&mut self) -> f64 {
        self.random = self
            .random
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        let unit = (self.random >> 40) as f64 / (1u64 << 24) as f64;
        0.9 + 0.2 * unit + 0.02 / (1.02 - unit)
    }

    fn refusal(errno: Errno, what: &str) -> Option<Refusal> {
        Some(Refusal {
            call: "AMDKFD_IOC_BATCH_UNMAP_QUEUES",
            errno: Some(errno),
            what: what.to_owned(),
            fix: "look at the kernel log".to_owned(),
        })
    }
}

impl Rig for Fake {
    fn ready(&mut self, _: BackendKind, _: &[Target]) -> Result<(), ControlError> {
        Ok(())
    }

    fn act(
        &mut self,
        backend: BackendKind,
        operation: Operation,
        targets: &[Target],
    ) -> Result<Outcome, ControlError> {
        self.calls += 1;
        let call = self.calls;
        let mut refusal = None;
        match self.trouble {
            Trouble::TimesOut(at) if at == call => {
                refusal = Self::refusal(Errno::ETIME, "the GPU did not answer")
            }
            Trouble::Fails(at) if at == call => {
                refusal = Self::refusal(Errno::EBUSY, "held by process 9")
            }
            Trouble::Refused(kind) if kind == backend => {
                refusal = Self::refusal(Errno::EPERM, "not allowed")
            }
            Trouble::Sticks(at) if call >= at && operation == Operation::Resume => {
                return Err(ControlError::Unavailable {
                    what: "the driver is gone".into(),
                    fix: "restart".into(),
                })
            }
            _ => {}
        }
        let round_trips = if backend == BackendKind::Patched {
            1
        } else {
            targets.len()
        };
        let (mut lock, mut hw, mut software) = (0.0, 0.0, 20e3);
        for _ in 0..round_trips {
            lock += 4e3 * self.noise();
            hw += if operation == Operation::Preempt {
                10e6
            } else {
                180e3
            } * self.noise();
            software += if backend == BackendKind::DebugTrap {
                900e3
            } else {
                60e3
            } * self.noise();
            self.cycles.push(Cycle {
                gpu_id: GPU,
                off_ns: hw as u64 + 40_000,
            });
        }
        let targets = targets
            .iter()
            .map(|target| {
                let mut changed = 0;
                for queue in &target.queues {
                    let key = (target.pid, *queue);
                    changed += u32::from(match operation {
                        _ if refusal.is_some() => false,
                        Operation::Preempt => self.held.insert(key, backend).is_none(),
                        Operation::Resume => self.held.remove(&key) == Some(backend),
                    });
                }
                TargetOutcome {
                    pid: target.pid,
                    queue: None,
                    queues: target.queues.len() as u32,
                    changed,
                    refusal: refusal.clone(),
                    kept_off: None,
                }
            })
            .collect();
        Ok(Outcome {
            targets,
            lock_wait_ns: Some(lock as u64),
            hw_ns: Some(hw as u64),
            total_ns: (lock + hw + software) as u64,
        })
    }

    fn release(&mut self, backend: BackendKind) -> Result<(), ControlError> {
        if matches!(self.trouble, Trouble::Sticks(_)) {
            return Err(ControlError::Unavailable {
                what: "the driver is gone".into(),
                fix: "restart".into(),
            });
        }
        self.held.retain(|_, holder| *holder != backend);
        Ok(())
    }

    fn begin(&mut self) {
        self.cycles.clear();
    }

    fn seen(&mut self, operation: Operation, targets: &[Target]) -> Seen {
        let held = |target: &Target| {
            target
                .queues
                .iter()
                .all(|q| self.held.contains_key(&(target.pid, *q)))
        };
        Seen {
            confirmed: Some(
                targets
                    .iter()
                    .all(|t| held(t) == (operation == Operation::Preempt)),
            ),
            cycles: Some(self.cycles.clone()),
            ..Seen::default()
        }
    }

    fn pause(&mut self, time: Duration) {
        self.slept += time;
    }

    fn stop(&mut self) -> Option<End> {
        matches!(self.trouble, Trouble::Signal(at) if self.calls >= at).then_some(End::Signal(2))
    }

    fn progress(&mut self, _: u32, _: u32) {}
}

const BACKENDS: [BackendKind; 3] = [
    BackendKind::Patched,
    BackendKind::DebugTrap,
    BackendKind::Criu,
];
const COUNTS: [Count; 4] = [
    Count::Queues(1),
    Count::Queues(10),
    Count::Queues(64),
    Count::All,
];

fn environment(job: &[Target]) -> Environment {
    Environment {
        schema: SCHEMA,
        began: "2026-01-01T00:00:00Z".to_owned(),
        version: "0.1.0".to_owned(),
        kernel: "6.12.95".to_owned(),
        module_version: Some("0123456789ABCDEF".to_owned()),
        simulation: Some(BTreeMap::from([(
            "sim_unmap_us".to_owned(),
            "50".to_owned(),
        )])),
        cpus: 2,
        gpus: vec![record::Gpu {
            gpu_id: GPU,
            gfx: "gfx942".to_owned(),
            num_xcc: 1,
            num_cp_queues: 24,
        }],
        offline: job
            .iter()
            .map(|target| Process {
                pid: target.pid,
                comm: target.comm,
                queues: target.queues.len(),
                gpus: vec![GPU],
            })
            .collect(),
        online: vec![Process {
            pid: Pid(90),
            comm: Comm::from_procfs(b"online\n"),
            queues: 2,
            gpus: vec![GPU],
        }],
        backends: BACKENDS
            .map(|backend| BackendState {
                backend,
                why_not: None,
            })
            .to_vec(),
        observed: "events".to_owned(),
        rounds: 0,
        hold_ns: 2_000_000,
        seed: Id64(42),
        percentiles: "exact, nearest rank".to_owned(),
    }
}

struct Done {
    plan: Plan,
    findings: Findings,
    report: Report,
    rig: Fake,
}

fn bench(job: &[Target], backends: &[BackendKind], rounds: u32, trouble: Trouble) -> Done {
    let plan = Plan::new(job, &COUNTS);
    let mut rig = Fake::new(trouble);
    let options = Options {
        rounds,
        hold: Duration::from_millis(2),
        seed: 42,
    };
    let findings = run(&mut rig, &plan, backends, &[GPU], &options);
    let environment = Environment {
        rounds,
        ..environment(job)
    };
    let report = Report::new(environment, &plan, &findings);
    Done {
        plan,
        findings,
        report,
        rig,
    }
}

fn page(done: &Done) -> String {
    html::page(&done.report, &done.plan, &done.findings).expect("it can be drawn")
}

fn shown(report: &Report) -> String {
    let mut out = Vec::new();
    table::write(&mut out, report, false).expect("memory can be written");
    String::from_utf8(out).expect("it is text")
}

#[test]
fn a_whole_run() {
    let done = bench(&job(&[16; 4], b"kfd-load\n"), &BACKENDS, 60, Trouble::None);
    assert_eq!(done.report.end.end, EndKind::Complete);
    assert!(done.rig.held.is_empty());
    for row in &done.report.measured {
        let expected = if row.queues == 64 && row.calls == gpreempt::bench::Calls::PerQueue {
            10
        } else {
            60
        };
        assert_eq!(
            (row.n, row.failed, row.unseen),
            (expected, 0, Some(0)),
            "{} {}",
            row.backend,
            row.case
        );
        let split = row.middle_half.expect("the backend tells");
        assert!(split.total_ns() <= row.total.expect("there are samples").max_ns);
    }
    let rows: BTreeSet<_> = done
        .report
        .measured
        .iter()
        .map(|r| (r.case.clone(), r.backend))
        .collect();
    assert_eq!(rows.len(), 8 + 8 + 3, "CRIU stops whole processes only");
    let ratio = |numerator: &str| {
        let ratio = done.report.ratios.iter().find(|r| {
            r.numerator == numerator
                && r.case
                    .as_deref()
                    .is_none_or(|case| case == "all 64 queues of 4 processes")
        });
        ratio.expect("it is there").ratio
    };
    assert!(
        (3.5..5.0).contains(&ratio("debug-trap").p50),
        "four round trips instead of one"
    );
    assert!((60.0..70.0).contains(&ratio("a call per queue").p50));
    std::fs::write(
        concat!(env!("CARGO_TARGET_TMPDIR"), "/bench.html"),
        page(&done),
    )
    .expect("it can be written");
}

#[test]
fn as_a_table() {
    let done = bench(
        &job(&[12], b"kfd-load\n"),
        &BACKENDS[..2],
        20,
        Trouble::None,
    );
    assert_data_eq!(
        shown(&done.report),
        str![[r#"
simulated hardware, real driver: Linux 6.12.95
GPU cf19 (gfx942, 1 XCC, 24 compute slots)
offline: kfd-load[100] 12 queues
online: online[90] 2 queues
20 rounds, held for 2.00ms, order of seed 42; seen by events

preempt                                       backend      n    mean     P50     P95     P99     max  lock wait  hardware  software  failed  unseen
1 queue                                       patched     20  11.2ms  11.0ms  12.6ms  13.7ms  13.7ms      4.4µs    11.1ms      88µs       0       0
                                              debug-trap  20  11.5ms  11.4ms  12.8ms  13.4ms  13.4ms      4.3µs    10.4ms     966µs       0       0
10 queues                                     patched     20  10.6ms  10.4ms  11.3ms  16.1ms  16.1ms      4.2µs    10.3ms      85µs       0       0
                                              debug-trap  20  11.8ms  11.4ms  13.8ms  14.3ms  14.3ms      4.3µs    10.4ms    1.07ms       0       0
10 queues, a call per queue                   patched     20   108ms   107ms   117ms   127ms   127ms       44µs     106ms     862µs       0       0
                                              debug-trap  20   118ms   117ms   126ms   128ms   128ms       42µs     108ms    9.93ms       0       0
all 12 queues of 1 process                    patched     20  11.0ms  10.6ms  12.9ms  13.5ms  13.5ms      4.4µs    10.6ms      86µs       0       0
                                              debug-trap  20  11.6ms  11.0ms  15.5ms  15.8ms  15.8ms      4.4µs    10.2ms     960µs       0       0
all 12 queues of 1 process, a call per queue  patched     20   132ms   131ms   138ms   139ms   139ms       52µs     131ms    1.02ms       0       0
                                              debug-trap  20   142ms   142ms   147ms   148ms   148ms       53µs     131ms    11.7ms       0       0

resume                                        backend      n    mean     P50     P95     P99     max  lock wait  hardware  software  failed  unseen
1 queue                                       patched     20   276µs   269µs   304µs   315µs   315µs      4.6µs     183µs      83µs       0       0
                                              debug-trap  20  1.18ms  1.15ms  1.34ms  1.64ms  1.64ms      4.2µs     184µs     969µs       0       0
10 queues                                     patched     20   299µs   289µs   352µs   385µs   385µs      4.3µs     195µs      92µs       0       0
                                              debug-trap  20  1.15ms  1.11ms  1.31ms  1.38ms  1.38ms      4.2µs     192µs     925µs       0       0
10 queues, a call per queue                   patched     20  2.82ms  2.81ms  3.00ms  3.04ms  3.04ms       43µs    1.90ms     854µs       0       0
                                              debug-trap  20  11.9ms  11.9ms  12.5ms  12.6ms  12.6ms       44µs    1.98ms    9.87ms       0       0
all 12 queues of 1 process                    patched     20   292µs   281µs   355µs   378µs   378µs      4.4µs     190µs      90µs       0       0
                                              debug-trap  20  1.26ms  1.21ms  1.70ms  1.74ms  1.74ms      4.2µs     195µs    1.00ms       0       0
all 12 queues of 1 process, a call per queue  patched     20  3.37ms  3.36ms  3.60ms  3.61ms  3.61ms       51µs    2.29ms    1.02ms       0       0
                                              debug-trap  20  14.2ms  14.0ms  15.4ms  15.5ms  15.5ms       52µs    2.34ms    11.6ms       0       0
lock wait, hardware and software are means of the middle half of the rounds and add up; a lock wait that cannot be seen (-) is part of software

online off the GPU                            backend     preempt: cycles     P50     P95     max  resume: cycles     P50     P95     max
1 queue                                       patched                   1  11.0ms  12.5ms  13.7ms               1   222µs   254µs   271µs
                                              debug-trap                1  10.6ms  12.0ms  12.5ms               1   221µs   261µs   264µs
10 queues                                     patched                   1  10.4ms  11.2ms  16.1ms               1   232µs   303µs   339µs
                                              debug-trap                1  10.4ms  12.8ms  13.4ms               1   231µs   251µs   259µs
10 queues, a call per queue                   patched                  10   106ms   116ms   126ms              10  2.31ms  2.48ms  2.56ms
                                              debug-trap               10   107ms   117ms   119ms              10  2.34ms  2.50ms  2.54ms
all 12 queues of 1 process                    patched                   1  10.5ms  12.9ms  13.4ms               1   232µs   313µs   322µs
                                              debug-trap                1  10.1ms  14.6ms  15.0ms               1   227µs   328µs   332µs
all 12 queues of 1 process, a call per queue  patched                  12   130ms   138ms   139ms              12  2.76ms  2.96ms  3.05ms
                                              debug-trap               12   130ms   136ms   136ms              12  2.81ms  3.05ms  3.13ms

ratio                                 of                                            pairs  preempt: P50    P90  resume: P50    P90
debug-trap / patched                  1 queue                                          20         0.98x  1.24x        4.17x  4.70x
debug-trap / patched                  10 queues                                        20         1.08x  1.34x        3.95x  4.39x
debug-trap / patched                  10 queues, a call per queue                      20         1.11x  1.16x        4.25x  4.46x
debug-trap / patched                  all 12 queues of 1 process                       20         1.07x  1.25x        4.28x  4.79x
debug-trap / patched                  all 12 queues of 1 process, a call per queue     20         1.07x  1.12x        4.16x  4.58x
a call per queue / one call           patched, 10 queues                               20         10.3x  11.4x        9.68x  10.6x
a call per queue / one call           patched, all 12 queues of 1 process              20         12.3x  13.3x        11.9x  13.4x
a call per queue / one call           debug-trap, 10 queues                            20         10.2x  11.5x        10.6x  11.3x
a call per queue / one call           debug-trap, all 12 queues of 1 process           20         12.8x  13.6x        11.5x  13.3x
10 queues / 1 queue                   patched                                          20         0.90x  1.03x        1.04x  1.29x
all 12 queues of 1 process / 1 queue  patched                                          20         0.95x  1.24x        1.05x  1.24x
10 queues / 1 queue                   debug-trap                                       20         0.99x  1.18x        0.95x  1.19x
all 12 queues of 1 process / 1 queue  debug-trap                                       20         0.98x  1.09x        1.05x  1.32x

not measured
64 queues: the job has 12 queues
4 processes: the job has 1 process

not observed: the online process's own request latency, which only it knows; when a queue really runs again, which the driver does not know

"#]]
    );
}

#[test]
fn as_json() {
    let done = bench(&job(&[2], b"kfd-load\n"), &BACKENDS[..1], 5, Trouble::None);
    let lines: Vec<String> = done
        .report
        .records()
        .map(|record| serde_json::to_string(&record).expect("it can be written"))
        .collect();
    assert_data_eq!(
        lines.join("\n"),
        str![[r#"
{"type":"bench_environment","data":{"schema":1,"began":"2026-01-01T00:00:00Z","version":"0.1.0","kernel":"6.12.95","module_version":"0123456789ABCDEF","simulation":{"sim_unmap_us":"50"},"cpus":2,"gpus":[{"gpu_id":53017,"gfx":"gfx942","num_xcc":1,"num_cp_queues":24}],"offline":[{"pid":100,"comm":"kfd-load","queues":2,"gpus":[53017]}],"online":[{"pid":90,"comm":"online","queues":2,"gpus":[53017]}],"backends":[{"backend":"patched","why_not":null},{"backend":"debug-trap","why_not":null},{"backend":"criu","why_not":null}],"observed":"events","rounds":5,"hold_ns":2000000,"seed":"42","percentiles":"exact, nearest rank"}}
{"type":"bench_skipped","data":{"backend":null,"case":"10 queues","why":"the job has 2 queues"}}
{"type":"bench_skipped","data":{"backend":null,"case":"64 queues","why":"the job has 2 queues"}}
{"type":"bench_skipped","data":{"backend":null,"case":"4 processes","why":"the job has 1 process"}}
{"type":"bench_result","data":{"backend":"patched","case":"1 queue","processes":1,"queues":1,"whole":false,"calls":"batch","operation":"preempt","n":5,"failed":0,"unseen":0,"total":{"n":5,"mean_ns":10722013,"min_ns":9799530,"p50_ns":10674755,"p95_ns":11527568,"p99_ns":11527568,"max_ns":11527568},"lock_wait":{"n":5,"mean_ns":4136,"min_ns":3932,"p50_ns":4189,"p95_ns":4285,"p99_ns":4285,"max_ns":4285},"hw":{"n":5,"mean_ns":10632741,"min_ns":9699092,"p50_ns":10588567,"p95_ns":11439667,"p99_ns":11439667,"max_ns":11439667},"software":{"n":5,"mean_ns":85136,"min_ns":80290,"p50_ns":83373,"p95_ns":96249,"p99_ns":96249,"max_ns":96249},"middle_half":{"lock_wait_ns":4152,"hw_ns":10674981,"software_ns":81855},"off_hardware":{"n":5,"mean_ns":10672741,"min_ns":9739092,"p50_ns":10628567,"p95_ns":11479667,"p99_ns":11479667,"max_ns":11479667},"cycles_p50":1,"failures":{},"given_up":null}}
{"type":"bench_result","data":{"backend":"patched","case":"all 2 queues of 1 process","processes":1,"queues":2,"whole":true,"calls":"batch","operation":"preempt","n":5,"failed":0,"unseen":0,"total":{"n":5,"mean_ns":11878055,"min_ns":10110484,"p50_ns":10875120,"p95_ns":16103355,"p99_ns":16103355,"max_ns":16103355},"lock_wait":{"n":5,"mean_ns":4654,"min_ns":3933,"p50_ns":4012,"p95_ns":6799,"p99_ns":6799,"max_ns":6799},"hw":{"n":5,"mean_ns":11789124,"min_ns":10019965,"p50_ns":10792817,"p95_ns":16010767,"p99_ns":16010767,"max_ns":16010767},"software":{"n":5,"mean_ns":84277,"min_ns":78370,"p50_ns":84471,"p95_ns":88594,"p99_ns":88594,"max_ns":88594},"middle_half":{"lock_wait_ns":4158,"hw_ns":10971630,"software_ns":83024},"off_hardware":{"n":5,"mean_ns":11829124,"min_ns":10059965,"p50_ns":10832817,"p95_ns":16050767,"p99_ns":16050767,"max_ns":16050767},"cycles_p50":1,"failures":{},"given_up":null}}
{"type":"bench_result","data":{"backend":"patched","case":"all 2 queues of 1 process, a call per queue","processes":1,"queues":2,"whole":true,"calls":"per_queue","operation":"preempt","n":5,"failed":0,"unseen":0,"total":{"n":5,"mean_ns":22127774,"min_ns":19343180,"p50_ns":20607029,"p95_ns":28661755,"p99_ns":28661755,"max_ns":28661755},"lock_wait":{"n":5,"mean_ns":8074,"min_ns":7496,"p50_ns":8141,"p95_ns":8775,"p99_ns":8775,"max_ns":8775},"hw":{"n":5,"mean_ns":21957613,"min_ns":19167245,"p50_ns":20429016,"p95_ns":28495637,"p99_ns":28495637,"max_ns":28495637},"software":{"n":5,"mean_ns":162087,"min_ns":156865,"p50_ns":158101,"p95_ns":169685,"p99_ns":169685,"max_ns":169685},"middle_half":{"lock_wait_ns":8032,"hw_ns":20708395,"software_ns":161550},"off_hardware":{"n":5,"mean_ns":22037613,"min_ns":19247245,"p50_ns":20509016,"p95_ns":28575637,"p99_ns":28575637,"max_ns":28575637},"cycles_p50":2,"failures":{},"given_up":null}}
{"type":"bench_result","data":{"backend":"patched","case":"1 queue","processes":1,"queues":1,"whole":false,"calls":"batch","operation":"resume","n":5,"failed":0,"unseen":0,"total":{"n":5,"mean_ns":295621,"min_ns":263943,"p50_ns":278482,"p95_ns":359364,"p99_ns":359364,"max_ns":359364},"lock_wait":{"n":5,"mean_ns":4232,"min_ns":3726,"p50_ns":3788,"p95_ns":5105,"p99_ns":5105,"max_ns":5105},"hw":{"n":5,"mean_ns":205445,"min_ns":176300,"p50_ns":186971,"p95_ns":261897,"p99_ns":261897,"max_ns":261897},"software":{"n":5,"mean_ns":85944,"min_ns":76173,"p50_ns":84391,"p95_ns":97407,"p99_ns":97407,"max_ns":97407},"middle_half":{"lock_wait_ns":4556,"hw_ns":193774,"software_ns":86601},"off_hardware":{"n":5,"mean_ns":245445,"min_ns":216300,"p50_ns":226971,"p95_ns":301897,"p99_ns":301897,"max_ns":301897},"cycles_p50":1,"failures":{},"given_up":null}}
{"type":"bench_result","data":{"backend":"patched","case":"all 2 queues of 1 process","processes":1,"queues":2,"whole":true,"calls":"batch","operation":"resume","n":5,"failed":0,"unseen":0,"total":{"n":5,"mean_ns":264599,"min_ns":252976,"p50_ns":260757,"p95_ns":276794,"p99_ns":276794,"max_ns":276794},"lock_wait":{"n":5,"mean_ns":4489,"min_ns":3922,"p50_ns":4106,"p95_ns":5759,"p99_ns":5759,"max_ns":5759},"hw":{"n":5,"mean_ns":181397,"min_ns":166999,"p50_ns":181006,"p95_ns":195719,"p99_ns":195719,"max_ns":195719},"software":{"n":5,"mean_ns":78713,"min_ns":75829,"p50_ns":77840,"p95_ns":83322,"p99_ns":83322,"max_ns":83322},"middle_half":{"lock_wait_ns":3989,"hw_ns":181422,"software_ns":78997},"off_hardware":{"n":5,"mean_ns":221397,"min_ns":206999,"p50_ns":221006,"p95_ns":235719,"p99_ns":235719,"max_ns":235719},"cycles_p50":1,"failures":{},"given_up":null}}
{"type":"bench_result","data":{"backend":"patched","case":"all 2 queues of 1 process, a call per queue","processes":1,"queues":2,"whole":true,"calls":"per_queue","operation":"resume","n":5,"failed":0,"unseen":0,"total":{"n":5,"mean_ns":578700,"min_ns":516295,"p50_ns":561014,"p95_ns":652466,"p99_ns":652466,"max_ns":652466},"lock_wait":{"n":5,"mean_ns":8785,"min_ns":7889,"p50_ns":8743,"p95_ns":9584,"p99_ns":9584,"max_ns":9584},"hw":{"n":5,"mean_ns":404310,"min_ns":347536,"p50_ns":379438,"p95_ns":486658,"p99_ns":486658,"max_ns":486658},"software":{"n":5,"mean_ns":165605,"min_ns":156224,"p50_ns":161122,"p95_ns":177647,"p99_ns":177647,"max_ns":177647},"middle_half":{"lock_wait_ns":8593,"hw_ns":395786,"software_ns":170534},"off_hardware":{"n":5,"mean_ns":484310,"min_ns":427536,"p50_ns":459438,"p95_ns":566658,"p99_ns":566658,"max_ns":566658},"cycles_p50":2,"failures":{},"given_up":null}}
{"type":"bench_ratio","data":{"compares":"calls","numerator":"a call per queue","denominator":"one call","backend":"patched","case":"all 2 queues of 1 process","operation":"preempt","n":5,"p10":1.2011894415790996,"p50":2.0114929323068718,"p90":2.3772524144927876}}
{"type":"bench_ratio","data":{"compares":"calls","numerator":"a call per queue","denominator":"one call","backend":"patched","case":"all 2 queues of 1 process","operation":"resume","n":5,"p10":1.983644285297146,"p50":2.1820607488457404,"p90":2.357225951429583}}
{"type":"bench_ratio","data":{"compares":"sizes","numerator":"all 2 queues of 1 process","denominator":"1 queue","backend":"patched","case":null,"operation":"preempt","n":5,"p10":0.8770699942954142,"p50":1.1097593456012687,"p90":1.5085456293844683}}
{"type":"bench_ratio","data":{"compares":"sizes","numerator":"all 2 queues of 1 process","denominator":"1 queue","backend":"patched","case":null,"operation":"resume","n":5,"p10":0.7242684297815029,"p50":0.9363513620269892,"p90":1.0298698496089536}}
{"type":"bench_end","data":{"end":"complete","message":null,"signal":null,"rounds":5}}
"#]]
    );
}

#[test]
fn a_schema_describes_every_field() {
    let schema: serde_json::Value = serde_json::from_str(&record::schema()).expect("it is JSON");
    let mut undescribed = Vec::new();
    for (name, definition) in schema["$defs"].as_object().expect("it has definitions") {
        for (field, of) in definition["properties"].as_object().into_iter().flatten() {
            if !of["description"].is_string() {
                undescribed.push(format!("{name}.{field}"));
            }
        }
    }
    assert!(undescribed.is_empty(), "{undescribed:?}");
    let types: Vec<&str> = schema["oneOf"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|variant| variant["properties"]["type"]["const"].as_str())
        .collect();
    assert_eq!(
        types,
        [
            "bench_environment",
            "bench_skipped",
            "bench_result",
            "bench_ratio",
            "bench_end"
        ]
    );
}

#[test]
fn the_committed_schema_is_current() {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../docs/schema/bench.schema.json"
    );
    let committed = std::fs::read_to_string(path).expect("it is committed");
    assert!(
        committed == record::schema(),
        "bench.schema.json is stale: `cargo run -p gpreempt -- gen docs`"
    );
}

/// What a page would fetch from somewhere.
fn loaded(page: &scraper::Html) -> Vec<String> {
    let any = scraper::Selector::parse("*").expect("it is a selector");
    let mut loaded = Vec::new();
    for element in page.select(&any) {
        let name = element.value().name();
        if [
            "script", "link", "iframe", "object", "embed", "img", "image", "base", "use", "form",
        ]
        .contains(&name)
        {
            loaded.push(name.to_owned());
        }
        for (attribute, value) in element.value().attrs() {
            let fetches = [
                "src",
                "href",
                "xlink:href",
                "srcset",
                "action",
                "data",
                "background",
            ]
            .contains(&attribute);
            if fetches || attribute.starts_with("on") || value.contains("url(") {
                loaded.push(format!("{name} {attribute}={value}"));
            }
        }
    }
    loaded
}

#[test]
fn the_page_is_well_formed_and_loads_nothing() {
    let hostile = b"</style><script>\n";
    let done = bench(
        &job(&[16, 16, 16, 16], hostile),
        &BACKENDS,
        30,
        Trouble::Fails(200),
    );
    let text = page(&done);
    let parsed = scraper::Html::parse_document(&text);
    assert!(parsed.errors.is_empty(), "{:?}", parsed.errors);
    assert_eq!(loaded(&parsed), Vec::<String>::new());
    let style = include_str!("../src/bench/html/style.css");
    for fetching in ["url(", "@import", "http:", "https:"] {
        assert!(!style.contains(fetching), "{fetching}");
    }
    assert!(!text.contains("<script>"));
    assert!(
        text.contains("&lt;/style&gt;&lt;scrip"),
        "a name is shown as it is"
    );

    let mut plots = 0;
    for part in text.split("<svg").skip(1) {
        let (svg, _) = part.split_once("</svg>").expect("it ends");
        let svg = format!("<svg{svg}</svg>");
        let document = roxmltree::Document::parse(&svg).expect("it is XML");
        let numbers = |node: &roxmltree::Node<'_, '_>, name| -> Option<f64> {
            node.attribute(name)?.parse().ok()
        };
        let root = document.root_element();
        let (width, height) = (
            numbers(&root, "width").unwrap(),
            numbers(&root, "height").unwrap(),
        );
        for node in document.descendants() {
            for (name, limit) in [("x", width), ("cx", width), ("y", height), ("cy", height)] {
                if let Some(at) = numbers(&node, name) {
                    assert!(
                        (0.0..=limit).contains(&at),
                        "{name} {at} of {limit}: {node:?}"
                    );
                }
            }
        }
        plots += 1;
    }
    assert_eq!(
        plots,
        2 + 3 + 1 + 4 * 8,
        "parts, ratios, disturbance, four of each case"
    );
}

#[test]
fn every_colour_of_a_plot_is_one_of_the_scheme() {
    let text = page(&bench(
        &job(&[4; 4], b"load\n"),
        &BACKENDS,
        20,
        Trouble::None,
    ));
    let mut colours = BTreeSet::new();
    for attribute in ["fill=\"#", "stroke=\"#"] {
        colours.extend(
            text.split(attribute)
                .skip(1)
                .map(|rest| format!("{attribute}{}\"", &rest[..6])),
        );
    }
    assert!(colours.len() > 8);
    for colour in colours {
        assert!(
            text.contains(&format!("svg [{colour}]")),
            "{colour} has no rule"
        );
    }
}

#[test]
fn a_refused_backend_is_listed_with_why() {
    let done = bench(
        &job(&[4; 4], b"load\n"),
        &BACKENDS,
        10,
        Trouble::Refused(BackendKind::DebugTrap),
    );
    assert!(done
        .report
        .measured
        .iter()
        .all(|row| row.backend != BackendKind::DebugTrap));
    let skipped: Vec<_> = done
        .report
        .skipped
        .iter()
        .filter(|s| s.backend == Some(BackendKind::DebugTrap))
        .collect();
    assert!(!skipped.is_empty() && skipped.iter().all(|s| s.why.contains("not allowed")));
    assert!(shown(&done.report).contains("not allowed; look at the kernel log"));
    for row in done
        .findings
        .rows
        .iter()
        .filter(|row| row.given_up.is_some())
    {
        let possible = done.plan.cases[row.case]
            .impossible_for(row.backend)
            .is_none();
        assert_eq!(row.denied, possible, "EPERM is a missing permission");
    }
    assert!(done.rig.held.is_empty());
}

#[test]
fn one_failure_is_counted_and_released() {
    // After the round that warms up.
    let done = bench(
        &job(&[3], b"load\n"),
        &BACKENDS[..1],
        10,
        Trouble::Fails(30),
    );
    let failed: Vec<_> = done
        .findings
        .rows
        .iter()
        .filter(|row| row.failed() > 0)
        .collect();
    assert_eq!(failed.len(), 1);
    assert_eq!(failed[0].failed(), 1);
    assert_eq!(
        (failed[0].preempts.len(), failed[0].resumes.len()),
        (9, 9),
        "both or neither"
    );
    assert!(done.rig.held.is_empty());
    assert_eq!(done.report.end.end, EndKind::Complete);
}

#[test]
fn a_gpu_that_does_not_answer_ends_it_at_once() {
    let done = bench(&job(&[3], b"load\n"), &BACKENDS, 10, Trouble::TimesOut(40));
    assert_eq!(done.report.end.end, EndKind::GpuTimedOut);
    assert_eq!(done.rig.calls, 40, "nothing was called after that");
    assert!(page(&done).contains("Not complete"));
}

#[test]
fn a_signal_ends_it_with_what_there_is() {
    let done = bench(&job(&[3], b"load\n"), &BACKENDS, 1000, Trouble::Signal(100));
    assert_eq!(done.report.end.end, EndKind::Signal);
    assert_eq!(done.report.end.signal, Some(2));
    assert!(!done.report.measured.is_empty());
    assert!(done.rig.held.is_empty());
}

#[test]
fn what_cannot_be_restarted_ends_it_loudly() {
    let done = bench(&job(&[3], b"load\n"), &BACKENDS, 10, Trouble::Sticks(30));
    assert_eq!(done.report.end.end, EndKind::Stuck);
    assert!(done
        .report
        .end
        .message
        .expect("it is said")
        .contains("the driver is gone"));
}

#[test]
fn nothing_is_measured_where_nothing_works() {
    let done = bench(
        &job(&[3], b"load\n"),
        &BACKENDS[..1],
        10,
        Trouble::Refused(BackendKind::Patched),
    );
    assert_eq!(done.report.end.end, EndKind::Nothing);
    assert!(done.report.measured.is_empty());
    page(&done);
}

#[test]
fn help() {
    program()
        .args(["bench", "preempt", "--help"])
        .env("COLUMNS", "100")
        .assert()
        .success()
        .stdout_eq(str![[r#"
How long it takes to stop and restart queues of a running job, by every backend that works here

Stops sets of the job's queues for a moment and restarts them, over and over: one queue, ten, all of
a process, of several processes; in one call and one after the other; by all backends, each row once
a round in an order that changes. Every latency is split into the wait for the driver's lock, the
GPU's answer and software. How long processes that are not concerned are off the GPU for it is
measured too. Queues are restarted also if gpreempt is interrupted, killed or hangs.

Usage: gpreempt bench preempt [OPTIONS] <--pid <PID>|--queue <PID:GPU:QUEUE>|--cgroup <GLOB>|--comm <GLOB>>

Options:
      --color <WHEN>
          Colour; auto is on a terminal, unless NO_COLOR is set
          
          [default: auto]
          [possible values: auto, always, never]

      --online <PID|GLOB>
          A process whose disturbance is measured, by pid or name; it is never stopped, also if a
          selector names it

      --rounds <N>
          Rounds; percentiles are exact, and P99 needs 100 at least
          
          [default: 200]

      --backend <LIST>
          Backends to measure: patched, debug-trap, criu; all that work here if not given

      --hold <DURATION>
          How long queues stay stopped, and run before they are stopped again: at most 10s
          
          [default: 2ms]

      --queues <LIST>
          Numbers of queues to stop, as far as the job has them
          
          [default: 1,10,64,all]

      --format <FORMAT>
          How it is reported: for people, or one object a line for programs
          
          [default: table]
          [possible values: table, json]

      --html <FILE>
          Also write a page with plots, which needs no network

      --seed <N>
          Of the order of rows; another one each time if not given

  -h, --help
          Print help (see a summary with '-h')

Selectors (several: all that any of them names):
      --pid <PID>
          A process, with the queues that it creates later

      --queue <PID:GPU:QUEUE>
          A queue: process, gpu_id, queue id, as in 1234:52a1:0

      --cgroup <GLOB>
          Every KFD process in a cgroup whose path matches, and in those below it

      --comm <GLOB>
          Every KFD process of this name: *, ? and [...] as in a shell

Examples:
  gpreempt bench preempt --comm train.py --online serve.py --html preempt.html
  gpreempt bench preempt --pid 1234 --backend patched,criu --format json > preempt.jsonl

"#]]);
}

#[test]
fn what_cannot_be_measured_is_said() {
    program()
        .args(["bench", "preempt"])
        .assert()
        .code(2)
        .stderr_eq(str![[r#"
error: the following required arguments were not provided:
  <--pid <PID>|--queue <PID:GPU:QUEUE>|--cgroup <GLOB>|--comm <GLOB>>
...
"#]]);
    let wrong = [
        ("--queues", "0"),
        ("--queues", "many"),
        ("--rounds", "0"),
        ("--rounds", "100001"),
        ("--backend", "auto"),
        ("--hold", "11s"),
    ];
    for (option, value) in wrong {
        program()
            .args(["bench", "preempt", "--pid", "1", option, value])
            .assert()
            .code(2);
    }

    let tree = Tree::new("bench-no-driver");
    program()
        .args(["bench", "preempt", "--comm", "x", "--root"])
        .arg(tree.path("/"))
        .assert()
        .code(69)
        .stdout_eq("");
}
