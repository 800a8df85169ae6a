//! `vgpuctl allocations`: what the clients of a zone hold.

#![forbid(unsafe_code)]

use std::io::{self, Write};
use std::path::Path;

use proxy_channel::admin::{ALLOCATIONS_REQUEST, Allocations, Holder, SCHEMA};

use crate::table::{duration, size, table};
use crate::{Failure, ask};

pub fn run(socket: &Path, zone: &str, json: bool) -> Result<(), Failure> {
    let reply = ask(socket, &format!("{ALLOCATIONS_REQUEST}{zone}\n"))?;
    let answer: Allocations = serde_json::from_slice(&reply)?;
    if answer.schema != SCHEMA {
        return Err(Failure::Schema(answer.schema));
    }
    if answer.zone.is_none() {
        return Err(Failure::NoZone(zone.to_owned()));
    }
    let text = match json {
        true => format!(
            "{:#}\n",
            serde_json::from_slice::<serde_json::Value>(&reply)?
        ),
        false => render(&answer.holders),
    };
    io::stdout()
        .write_all(text.as_bytes())
        .map_err(Failure::Output)
}

fn render(holders: &[Holder]) -> String {
    if holders.is_empty() {
        return "no clients\n".to_owned();
    }
    let mut text = String::new();
    for holder in holders {
        let counts: Vec<String> = holder
            .counts
            .iter()
            .map(|(what, count)| match holder.bytes.get(what) {
                Some(&bytes) => format!("{what} {count} ({})", size(bytes)),
                None => format!("{what} {count}"),
            })
            .collect();
        text.push_str(&format!(
            "client {} pid {} {}: {}\n",
            holder.client,
            holder.pid,
            holder.program,
            match counts.is_empty() {
                true => "holds nothing".to_owned(),
                false => counts.join(", "),
            }
        ));
    }
    let rows = holders.iter().flat_map(|holder| {
        holder.pieces.iter().map(|piece| {
            vec![
                holder.client.to_string(),
                holder.pid.to_string(),
                piece.kind.clone(),
                size(piece.bytes),
                duration(piece.age_seconds),
                format!("{:#x}", piece.id),
            ]
        })
    });
    let rows: Vec<Vec<String>> = rows.collect();
    if !rows.is_empty() {
        text.push('\n');
        text.push_str(&table(
            &["CLIENT", "PID", "KIND", "SIZE", "AGE", "ID"],
            rows,
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use proxy_channel::admin::Piece;

    use super::*;

    #[test]
    fn each_client_has_a_line_and_each_piece_a_row() {
        let piece = Piece {
            kind: "memory".into(),
            id: 0x7f00,
            bytes: 3 << 20,
            age_seconds: 61,
        };
        let holder = Holder {
            client: 3,
            pid: 77,
            program: "train".into(),
            counts: [("handles.stream".into(), 2), ("memory".into(), 1)].into(),
            bytes: [("memory".into(), 3 << 20)].into(),
            pieces: vec![piece],
        };
        let expected = "\
client 3 pid 77 train: handles.stream 2, memory 1 (3 MiB)

CLIENT  PID  KIND    SIZE   AGE    ID
3       77   memory  3 MiB  1m01s  0x7f00
";
        assert_eq!(render(&[holder]), expected);
        assert_eq!(render(&[]), "no clients\n");
    }
}
