// SPDX-License-Identifier: MIT OR Apache-2.0
//! The program: arguments in, exit code out.

use std::process::ExitCode;

fn main() -> ExitCode {
    gpreempt::cli::main(std::env::args_os())
}
