//! Makes a repository with very many small chunks, for `scripts/scale`: of the newest snapshot's only file a new content of COUNT
//! chunks of 48 bytes, of which the first PERCENT are needed.

use icecore::backend::LocalBackend;
use icecore::format::{ChunkRef, Content, Key, PackKind, SequenceBuilder};
use icecore::id::Id;
use icecore::progress::Silent;
use icecore::repository::{Before, ChunkWriter, IndexOptions, NewChunk, Repository, RepositoryError, Trust};
use std::error::Error;
use std::sync::Arc;

const CHUNK_BYTES: usize = 48;
const BATCH: u64 = 10_000;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, place, count, percent] = arguments.as_slice() else {
        return Err("usage: many REPOSITORY COUNT PERCENT".into());
    };
    let (count, percent): (u64, u64) = (count.parse()?, percent.parse()?);
    let repository = Repository::open(Arc::new(LocalBackend::new(place)), IndexOptions::default())?;
    let writer = ChunkWriter::new(&repository, Trust::Index);
    let mut builder = SequenceBuilder::default();
    let mut keep = |bytes: Vec<u8>| writer.put(PackKind::Tree, &bytes);
    let mut at = 0;
    while at < count {
        let numbers: Vec<u64> = (at..(at + BATCH).min(count)).collect();
        let plains: Vec<Vec<u8>> = numbers.iter().map(|number| bytes_of(*number)).collect();
        let chunks: Vec<NewChunk<'_>> = plains
            .iter()
            .map(|plain| NewChunk { id: Id::of(plain), plain, old: Before::Chunks(&[]) })
            .collect();
        writer.put_all(PackKind::Data, &chunks)?;
        for (number, chunk) in numbers.iter().zip(&chunks) {
            if number * 100 < count * percent {
                builder.push(ChunkRef { id: chunk.id, len: CHUNK_BYTES as u32 }, &mut keep)?;
            }
        }
        at += BATCH;
    }
    let root = builder.finish::<RepositoryError>(&mut keep)?.ok_or("no chunks")?;
    writer.finish(&Silent)?;
    let mut snapshots = repository.snapshots()?;
    let mut snapshot = snapshots.list.pop().ok_or("no snapshot")?;
    let entry =
        snapshot.manifest.sources.first_mut().and_then(|source| source.root.as_mut()).ok_or("no source")?;
    (entry.size, entry.content) = (root.weight, Content::Sequence(root));
    repository.publish(&mut snapshot.manifest)?;
    repository.backend().delete(&Key::Snapshot(snapshot.stamp).path())?;
    Ok(())
}

/// Bytes that don't compress.
fn bytes_of(number: u64) -> Vec<u8> {
    let half = |salt: u64| *Id::of(&[number.to_le_bytes(), salt.to_le_bytes()].concat()).as_bytes();
    [half(1), half(2)].concat().into_iter().take(CHUNK_BYTES).collect()
}
