//! The auditor, built beside the fake worker for the tests of the supervisor.

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    auditor::main()
}
