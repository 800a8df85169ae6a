//! The instruction table holds: what it says works is accepted, what it says is refused is refused.

mod table;

use softgpu_core::ptx::{self, Target};
use table::{Outcome, Row};

fn rows() -> Vec<Row> {
    table::rows().unwrap_or_else(|line| panic!("not a row of the table: {line}"))
}

fn target(row: &Row) -> Target {
    let digits = row.target.trim_start_matches("sm_");
    let number: u32 = digits.trim_end_matches(['a', 'f']).parse().unwrap();
    Target {
        compute_capability: (number / 10, number % 10),
        max_ptx_version: (9, 9),
    }
}

#[test]
fn every_form_that_works_is_accepted() {
    let mut wrong = Vec::new();
    for row in rows() {
        if !matches!(row.outcome, Outcome::Works { .. }) {
            continue;
        }
        for form in row.forms() {
            let (text, _) = table::module(&row, &form);
            if let Err(error) = ptx::compile(&text, &target(&row)) {
                wrong.push(format!("{row}\n    {form}: {error}"));
                break;
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_refused_form_is_refused_at_load_with_line_instruction_and_reason() {
    let mut wrong = Vec::new();
    for row in rows() {
        let Outcome::Refused { reason } = &row.outcome else {
            continue;
        };
        for form in row.forms() {
            let (text, line) = table::module(&row, &form);
            match ptx::compile(&text, &target(&row)) {
                Ok(_) => wrong.push(format!("{row}\n    {form}: accepted")),
                Err(error) => {
                    let names = form.starts_with('.')
                        || !error.instruction.is_empty() && form.contains(&error.instruction);
                    if error.line != line || !names || !error.reason.contains(reason) {
                        wrong.push(format!("{row}\n    {form}: {error}, not line {line}"));
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
