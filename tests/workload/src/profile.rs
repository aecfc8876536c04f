// SPDX-License-Identifier: MIT OR Apache-2.0
//! Kinds of processes: how many queues they make and how they use them.

use clap::ValueEnum;

use crate::pace::Arrival;

/// A kind of process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Profile {
    /// Two compute queues, one dispatch at a time
    Simple,
    /// Training: two compute queues in a steady stream, one copy queue
    Model,
    /// A large model's worker: five compute queues, two copy queues
    LlmWorker,
    /// A service: requests of a few dispatches arrive like independent users; latency of each is recorded
    Inference,
    /// Queues created, updated and destroyed in cycles
    Churn,
}

/// The numbers behind a profile.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shape {
    pub compute_queues: usize,
    pub sdma_queues: usize,
    /// Dispatches that make one request; the last completes it.
    pub dispatches_per_request: usize,
    /// One copy on each copy queue after this many requests; 0 = never.
    pub requests_per_copy: u64,
    /// Requests in flight on one queue.
    pub window: usize,
    pub arrival: Arrival,
    /// Default of `--rate`.
    pub rate: f64,
    /// Default of `--dispatch-us`.
    pub dispatch_us: u64,
    /// `--rate` counts requests, else dispatches.
    pub rate_counts_requests: bool,
}

impl Profile {
    /// The word used on the command line and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Profile::Simple => "simple",
            Profile::Model => "model",
            Profile::LlmWorker => "llm-worker",
            Profile::Inference => "inference",
            Profile::Churn => "churn",
        }
    }

    /// Its numbers.
    pub fn shape(self) -> Shape {
        let training = Shape {
            compute_queues: 2,
            sdma_queues: 1,
            dispatches_per_request: 4,
            requests_per_copy: 4,
            window: 2,
            arrival: Arrival::Steady,
            rate: 400.0,
            dispatch_us: 200,
            rate_counts_requests: false,
        };
        match self {
            Profile::Simple => Shape {
                sdma_queues: 0,
                dispatches_per_request: 1,
                requests_per_copy: 0,
                rate: 100.0,
                dispatch_us: 100,
                ..training
            },
            Profile::Model => training,
            Profile::LlmWorker => Shape {
                compute_queues: 5,
                sdma_queues: 2,
                dispatches_per_request: 8,
                requests_per_copy: 2,
                ..training
            },
            Profile::Inference => Shape {
                sdma_queues: 0,
                requests_per_copy: 0,
                window: 16,
                arrival: Arrival::Independent,
                rate: 20.0,
                dispatch_us: 500,
                rate_counts_requests: true,
                ..training
            },
            Profile::Churn => Shape {
                sdma_queues: 0,
                dispatches_per_request: 1,
                requests_per_copy: 0,
                rate: 10.0,
                dispatch_us: 100,
                rate_counts_requests: true,
                ..training
            },
        }
    }
}

impl Shape {
    /// Requests per second when `--rate` is `rate`.
    pub fn requests_per_second(&self, rate: f64) -> f64 {
        if self.rate_counts_requests {
            rate
        } else {
            rate / self.dispatches_per_request as f64
        }
    }
}
