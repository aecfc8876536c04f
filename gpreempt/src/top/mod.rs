// SPDX-License-Identifier: MIT OR Apache-2.0
//! `top`: the machine's compute queues on a full screen. The state ([`State`]) is pure: what events told ([`feed`]), a picture of the
//! queues, a time and keys go in, rows come out. The view draws a state and knows nothing else. [`run`] has the terminal and
//! the clock.

mod feed;
mod keys;
mod looker;
mod pace;
mod run;
mod state;
mod terminal;
mod view;

pub use run::{live, recorded, Error, Finish, Options};
pub use state::{State, Status};
