//! From where a repository is to a connection to it.

use super::context::Context;
use super::failure::Failure;
use super::place::Place;
use crate::backend::{Backend, LocalBackend};
use std::sync::Arc;

impl Context {
    /// Connects to a repository's place.
    pub fn backend_of(&self, place: &Place) -> Result<Arc<dyn Backend>, Failure> {
        match place {
            Place::Local(path) => Ok(Arc::new(LocalBackend::new(path))),
            _ => Err(Failure::usage("not yet")),
        }
    }
}
