// SPDX-License-Identifier: MIT OR Apache-2.0

use std::io::{Read as _, Write as _};

use zerocopy::FromZeros as _;

use super::*;

const OPTIONS: HoldOptions = HoldOptions {
    gpu: None,
    no_sdma: true,
    lease: Duration::from_millis(400),
};

/// A job's end of a connection.
struct Job(UnixStream);

impl Job {
    fn connect(agents: &Agents, pid: u32) -> Self {
        let (ours, theirs) = UnixStream::pair().unwrap();
        agents.add(Pid(pid), 1, ours);
        Self(theirs)
    }

    fn hears(&mut self) -> Order {
        let mut order = Order::new_zeroed();
        self.0.read_exact(order.as_mut_bytes()).unwrap();
        order
    }

    fn answers(&mut self, sequence: u32, queues: u32, errno: i32) {
        let answer = Answer {
            sequence,
            queues,
            changed: queues,
            errno: errno as u32,
            took_ns: 5,
        };
        self.0.write_all(answer.as_bytes()).unwrap();
    }

    /// Answers so many orders, and returns what they were.
    fn obeys(mut self, orders: usize, errno: i32) -> std::thread::JoinHandle<Vec<Order>> {
        std::thread::spawn(move || {
            let one = |_| {
                let order = self.hears();
                self.answers(order.sequence, 2, errno);
                order
            };
            (0..orders).map(one).collect()
        })
    }
}

fn target(pid: u32) -> Target {
    Target {
        pid: Pid(pid),
        start_ticks: 1,
        comm: crate::event::Comm::from_procfs(b""),
        queues: Vec::new(),
        whole: true,
    }
}

fn refusal_of(outcome: &Outcome, pid: u32) -> Option<Option<Errno>> {
    let of_it = outcome
        .targets
        .iter()
        .find(|of| of.pid == Pid(pid))
        .unwrap();
    of_it.refusal.as_ref().map(|refusal| refusal.errno)
}

#[test]
fn jobs_are_stopped_and_restarted() {
    let agents = Agents::default();
    let jobs = [7, 8].map(|pid| Job::connect(&agents, pid).obeys(2, 0));
    let mut agent = Agent::new(agents);
    let both = [target(7), target(8)];
    let outcome = agent.preempt(&both, &OPTIONS).unwrap();
    assert!(outcome.complete(), "{outcome:?}");
    assert_eq!(outcome.targets.iter().map(|of| of.queues).sum::<u32>(), 4);
    assert_eq!(outcome.hw_ns, Some(5));
    assert!(agent.resume_all().unwrap().complete());
    for job in jobs {
        let orders = job.join().unwrap();
        assert_eq!((orders[0].kind, orders[1].kind), (STOP, GO));
        assert_eq!((orders[0].lease_ms, orders[0].flags), (400, NO_SDMA));
    }
}

#[test]
fn who_has_no_agent_is_refused_and_the_others_are_not() {
    let agents = Agents::default();
    let job = Job::connect(&agents, 7).obeys(2, 0);
    // Its pid belongs to another process now.
    let _stale = Job::connect(&agents, 9);
    let mut agent = Agent::new(agents);
    let stale = Target {
        start_ticks: 2,
        ..target(9)
    };
    let outcome = agent
        .preempt(&[target(7), target(8), stale], &OPTIONS)
        .unwrap();
    assert_eq!(refusal_of(&outcome, 7), None);
    assert_eq!(refusal_of(&outcome, 8), Some(Some(Errno::EOPNOTSUPP)));
    assert_eq!(refusal_of(&outcome, 9), Some(Some(Errno::EOPNOTSUPP)));
    drop(agent);
    assert_eq!(job.join().unwrap().len(), 2);
}

#[test]
fn a_hung_gpu_is_told() {
    let agents = Agents::default();
    let job = Job::connect(&agents, 7).obeys(1, libc::ETIME);
    let mut agent = Agent::new(agents);
    let outcome = agent.preempt(&[target(7)], &OPTIONS).unwrap();
    assert!(outcome.timed_out());
    job.join().unwrap();
}

#[test]
fn a_job_that_does_not_answer_is_let_go() {
    let agents = Agents::default();
    let mut job = Job::connect(&agents, 7);
    let mut agent = Agent::new(agents);
    let outcome = agent.preempt(&[target(7)], &OPTIONS).unwrap();
    assert_eq!(refusal_of(&outcome, 7), Some(None));
    let stop = job.hears();
    assert_eq!((stop.kind, job.hears().kind), (STOP, GO));
    // An answer that comes too late is not that to another order.
    job.answers(stop.sequence, 1, 0);
    let outcome = agent.preempt(&[target(7)], &OPTIONS).unwrap();
    assert_eq!(refusal_of(&outcome, 7), Some(None));
}

#[test]
fn a_job_that_ends_while_it_is_held_is_no_failure() {
    let agents = Agents::default();
    let job = Job::connect(&agents, 7).obeys(1, 0);
    let mut agent = Agent::new(agents.clone());
    assert!(agent.preempt(&[target(7)], &OPTIONS).unwrap().complete());
    // The job's end is closed with its thread.
    job.join().unwrap();
    assert!(agent.renew().is_ok());
    assert!(agent.resume_all().unwrap().complete());
    assert!(!agents.has(Pid(7), 1));
}

#[test]
fn a_lease_that_ended_in_the_job_is_noticed() {
    let agents = Agents::default();
    let mut job = Job::connect(&agents, 7);
    let mut agent = Agent::new(agents);
    let thread = std::thread::spawn(move || {
        let stop = job.hears();
        job.answers(stop.sequence, 2, 0);
        job.answers(ENDED, 2, 0);
        let lives = job.hears();
        (job, lives)
    });
    assert!(agent.preempt(&[target(7)], &OPTIONS).unwrap().complete());
    let until = Instant::now() + Duration::from_secs(10);
    while agent.renew().is_ok() {
        assert!(Instant::now() < until, "it is not noticed");
        std::thread::sleep(Duration::from_millis(1));
    }
    let (_job, lives) = thread.join().unwrap();
    assert_eq!(lives.kind, LIVES);
}

#[test]
fn nonsense_ends_the_connection() {
    let agents = Agents::default();
    let mut job = Job::connect(&agents, 7);
    job.0.set_nonblocking(true).unwrap();
    // As much as fits.
    while job.0.write(&[7; 4096]).is_ok() {}
    assert!(!agents.has(Pid(7), 1));
}
