//! Occupancy of clusters.

#![forbid(unsafe_code)]

use idm_protocol::handle::Kind;
use idm_protocol::wire;

use super::launch::{attributes, listed_bytes};
use crate::driver::Launch;
use crate::session::{Frame, Outcome, Session};

/// How many clusters run at once, or how large one may be.
pub fn vgpuClusters(
    session: &Session,
    request: &wire::VgpuClusters,
    frame: &mut Frame<'_>,
) -> Outcome {
    let function = session.object(Kind::FUNCTION, request.function)?;
    let shape = Launch {
        grid: [request.grid_x, request.grid_y, request.grid_z],
        block: [request.block_x, request.block_y, request.block_z],
        shared_bytes: request.shared_bytes,
    };
    let listed = listed_bytes(request.attribute_count)?;
    let mut attributes = attributes(frame.tail::<wire::VgpuClusters>(listed)?)?;
    let potential = request.potential != 0;
    let count = session
        .driver()
        .clusters(potential, function.pointer, &shape, &mut attributes)?;
    frame.reply(&wire::VgpuClustersReply { count, reserved: 0 });
    Ok(())
}
