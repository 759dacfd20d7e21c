//! Bytes in, chunk lengths out, and whether bytes are still the chunks that they were: pure.

mod boundaries;
mod changed_in_place;
mod content_defined;
mod replay;

pub use boundaries::{Recorded, compare_at_boundaries, read_up_to};
pub use content_defined::{Cuts, Cutter, Gear, Sizes};
pub use replay::{LOOKAHEAD_BYTES, OldBytes, Piece, Replayed, replay};
