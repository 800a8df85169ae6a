//! A program that does one order after the other, told on its input.
#![forbid(unsafe_code)]

use crate::{Finished, Program, Running};

/// Such a program, of the test client's scenarios; it answers each order with its number.
#[derive(Debug)]
pub struct Orders {
    running: Running,
    given: u32,
}

impl Orders {
    /// Starts `program` and waits until it is ready.
    ///
    /// # Panics
    /// If it ends before.
    #[must_use]
    pub fn start(program: Program) -> Self {
        let mut running = program.start();
        running.wait_for_line("ready");
        Self { running, given: 0 }
    }

    /// What it answers to the order `line`.
    ///
    /// # Panics
    /// If it ends before.
    pub fn order(&mut self, line: &str) -> String {
        self.running.tell(line);
        self.given += 1;
        let number = format!("{} ", self.given);
        let answer = self.running.wait_for_line(&number);
        answer[number.len()..].to_owned()
    }

    /// The number that it answers to the order `line`.
    ///
    /// # Panics
    /// If it answers with something else.
    pub fn number(&mut self, line: &str) -> u64 {
        self.order(line).parse().expect("a number")
    }

    /// Kills it.
    pub fn kill(self) {
        self.running.kill();
    }

    /// Lets it end.
    ///
    /// # Panics
    /// If it does not succeed.
    pub fn finish(mut self) -> Finished {
        self.running.close_input();
        self.running.finish().expect_success()
    }
}
