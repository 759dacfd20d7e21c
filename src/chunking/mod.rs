//! Bytes in, chunk lengths out: pure.

mod content_defined;

pub use content_defined::{Cuts, Cutter, Sizes};
