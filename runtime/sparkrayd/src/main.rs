//! `sparkrayd`: the runtime's processes in one binary. A RayManager, or `sparkray.init()` on one machine, starts
//! it, hands it its configuration on standard input and holds it by that pipe; see [`process`].

mod guardian;
mod head_main;
mod process;
mod raylet_main;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use sparkray_common::CUT_OFF_STATUS;
use sparkray_raylet::RayletError;

use crate::process::StartedBy;

/// The runtime's processes. sparkray starts them; each reads its configuration, one line of JSON, from standard
/// input, writes one line of JSON to standard output when it is ready, and ends when standard input is closed.
#[derive(Debug, Parser)]
#[command(name = "sparkrayd", version)]
struct Arguments {
    #[command(subcommand)]
    role: Role,
}

#[derive(Debug, Clone, Copy, Subcommand)]
enum Role {
    /// The head: nodes, jobs, actors, key-value. One for each cluster.
    Head,
    /// The raylet: leases, workers and the object store of a node. One for each executor.
    Raylet {
        /// Set by the guardian, as which a raylet starts: its own pid.
        #[arg(long, hide = true, requires = "parent")]
        guardian: Option<u32>,
        /// Set by the guardian: the pid of the process that started it.
        #[arg(long, hide = true, requires = "guardian")]
        parent: Option<u32>,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = match arguments.role {
        Role::Head => head_main::run().map(|()| ExitCode::SUCCESS),
        Role::Raylet {
            guardian: Some(guardian),
            parent: Some(parent),
        } => raylet_main::run(StartedBy::Guardian { guardian, parent }).map(|()| ExitCode::SUCCESS),
        Role::Raylet { .. } => guardian::run(),
    };
    match outcome {
        Ok(code) => code,
        Err(error) => {
            tracing::error!("{error:#}");
            match error.downcast_ref::<RayletError>() {
                Some(error) if error.may_be_started_anew() => ExitCode::from(CUT_OFF_STATUS),
                _ => ExitCode::FAILURE,
            }
        }
    }
}
