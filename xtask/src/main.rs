//! Code generation and checks.
//!
//! `cargo xtask codegen` turns the declarations in `cuda-abi/decl/` and the facts in `cuda-abi/data/`
//! into the checked-in `generated` files of every crate; `--check` says whether they are up to date.
//! `cargo xtask header DIR` extracts those facts anew from a CUDA header directory and is only needed
//! when the pinned CUDA version moves. `cargo xtask coverage` and `cargo xtask softgpu` write the tables of what works.
#![forbid(unsafe_code)]

mod codegen;
mod coverage;
mod decl;
mod emit;
mod facts;
mod groups;
mod header;
mod softgpu;
#[path = "../../softgpu/core/tests/table/mod.rs"]
mod table;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(about = "Code generation and checks for the workspace")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Write every generated file from the declarations.
    Codegen {
        /// Change nothing; fail when a generated file differs from what would be written.
        #[arg(long)]
        check: bool,
    },
    /// Extract function and enum facts from a CUDA header directory into cuda-abi/data.
    Header {
        /// The folder that holds cuda.h and cudaTypedefs.h.
        directory: PathBuf,
    },
    /// Extract function facts from an NVML header into cuda-abi/data.
    NvmlHeader {
        /// The file, nvml.h.
        file: PathBuf,
    },
    /// Write docs/coverage.md and docs/coverage.json.
    Coverage {
        /// Change nothing; fail when a file differs from what would be written.
        #[arg(long)]
        check: bool,
    },
    /// Write the instruction table of docs/softgpu.md.
    Softgpu {
        /// Change nothing; fail when the file differs from what would be written.
        #[arg(long)]
        check: bool,
    },
}

fn main() -> ExitCode {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .map(PathBuf::from)
        .unwrap_or_default();
    let result = match Arguments::parse().task {
        Task::Codegen { check } => codegen::run(&root, check),
        Task::Header { directory } => header::run(&root, &directory),
        Task::NvmlHeader { file } => header::run_nvml(&root, &file),
        Task::Coverage { check } => coverage::run(&root, check),
        Task::Softgpu { check } => softgpu::run(&root, check),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("xtask: {message}");
            ExitCode::FAILURE
        }
    }
}
