//! Compares a content with the chunks that it consisted of before, at their boundaries, on all cores.

use crate::cores::on_all_cores;
use crate::id::{Id, Naming};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// What one thread reads and compares at a time.
const BATCH_BYTES: u64 = 1 << 20;
/// A smaller content isn't worth a second thread.
const PARALLEL_BYTES: u64 = 4 << 20;

/// A chunk as it was recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recorded {
    pub id: Id,
    pub len: u32,
}

/// Where the present bytes come from: fills the buffer from an offset, or as much of it as there is.
pub type ReadUpTo<'r> = &'r (dyn Fn(&mut [u8], u64) -> io::Result<usize> + Sync);

/// What is told about each chunk, from any thread and in no order: its number, where it begins, the bytes that are there
/// now (fewer behind the end), and whether they are those that were recorded. An error ends the comparison.
pub type Tell<'t> = &'t (dyn Fn(usize, u64, &[u8], bool) -> io::Result<()> + Sync);

/// Neighbouring chunks of about a batch's size.
struct Batch<'c> {
    first: usize,
    offset: u64,
    chunks: &'c [Recorded],
}

/// Reads the content once and tells of each chunk whether it is as it was.
pub fn compare_at_boundaries(
    naming: Naming,
    chunks: &[Recorded],
    read: ReadUpTo<'_>,
    tell: Tell<'_>,
) -> io::Result<()> {
    let batches = batches(chunks);
    let work = |number: usize| batches.get(number).map_or(Ok(()), |batch| batch.compare(naming, read, tell));
    let bytes: u64 = chunks.iter().map(|chunk| u64::from(chunk.len)).sum();
    if bytes < PARALLEL_BYTES {
        (0..batches.len()).try_for_each(work)
    } else {
        on_all_cores(batches.len(), work)
    }
}

fn batches(chunks: &[Recorded]) -> Vec<Batch<'_>> {
    let mut batches = Vec::new();
    let (mut first, mut offset, mut rest) = (0, 0, chunks);
    while !rest.is_empty() {
        let mut len = 0;
        let fits = |chunk: &&Recorded| {
            len += u64::from(chunk.len);
            len <= BATCH_BYTES
        };
        let count = rest.iter().take_while(fits).count().max(1);
        let (chunks, after) = rest.split_at(count.min(rest.len()));
        batches.push(Batch { first, offset, chunks });
        offset += chunks.iter().map(|chunk| u64::from(chunk.len)).sum::<u64>();
        first += chunks.len();
        rest = after;
    }
    batches
}

impl Batch<'_> {
    fn compare(&self, naming: Naming, read: ReadUpTo<'_>, tell: Tell<'_>) -> io::Result<()> {
        let len: u64 = self.chunks.iter().map(|chunk| u64::from(chunk.len)).sum();
        let mut buffer = vec![0; len as usize];
        let read = read(&mut buffer, self.offset)?;
        let (mut rest, mut offset) = (buffer.get(..read).unwrap_or_default(), self.offset);
        for (number, chunk) in (self.first..).zip(self.chunks) {
            let (bytes, after) = rest.split_at_checked(chunk.len as usize).unwrap_or((rest, &[]));
            let same = bytes.len() == chunk.len as usize && naming.id_of(bytes) == chunk.id;
            tell(number, offset, bytes, same)?;
            offset += u64::from(chunk.len);
            rest = after;
        }
        Ok(())
    }
}

/// Fills the buffer, or as much of it as the file has.
pub fn read_up_to(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut read = 0;
    while let Some(rest) = buffer.get_mut(read..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, offset + read as u64) {
            Ok(0) => break,
            Ok(count) => read += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(read)
}

#[cfg(test)]
mod tests {
    use super::{Recorded, compare_at_boundaries};
    use crate::id::{Id, Naming};
    use proptest::prelude::{ProptestConfig, prop, proptest};
    use std::sync::Mutex;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn exactly_what_changed_is_told(
            before in 0usize..6_000_000, after in 0usize..6_000_000, chunk in 1usize..200_000,
            changes in prop::collection::vec(0usize..6_000_000, 0..10),
        ) {
            let chunk = chunk.max(before / 2000 + 1);
            let old: Vec<u8> = (0..before).map(|at| (at / 7) as u8).collect();
            let mut new: Vec<u8> = (0..after).map(|at| (at / 7) as u8).collect();
            for at in changes {
                if let Some(byte) = new.get_mut(at) {
                    *byte ^= 1;
                }
            }
            let recorded: Vec<Recorded> =
                old.chunks(chunk).map(|part| Recorded { id: Id::of(part), len: part.len() as u32 }).collect();
            let read = |buffer: &mut [u8], offset: u64| {
                let rest = new.get(offset as usize..).unwrap_or_default();
                let count = rest.len().min(buffer.len());
                buffer[..count].copy_from_slice(&rest[..count]);
                Ok(count)
            };
            let told = Mutex::new(vec![None; recorded.len()]);
            compare_at_boundaries(Naming::PLAIN, &recorded, &read, &|number, offset, bytes, same| {
                assert_eq!(offset as usize, number * chunk);
                let end = (offset as usize + bytes.len()).min(new.len());
                assert!(new.get(offset as usize..end).unwrap_or_default() == bytes);
                assert!(told.lock().unwrap()[number].replace(same).is_none());
                Ok(())
            }).unwrap();
            for (number, same) in told.into_inner().unwrap().into_iter().enumerate() {
                let range = number * chunk..((number + 1) * chunk).min(before);
                assert_eq!(same, Some(new.get(range.clone()) == old.get(range)));
            }
        }
    }
}
