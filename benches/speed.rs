//! What the parts of a backup cost, by themselves: `cargo bench`. Figures drift with the machine; `scripts/bench` measures the
//! whole beside other tools.
#![allow(clippy::unwrap_used, reason = "a benchmark stops where it can't go on")]

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use icecore::backend::{Backend, LocalBackend, MemoryBackend};
use icecore::chunking::{Cuts, Cutter, LOOKAHEAD_BYTES, Recorded, Sizes, replay};
use icecore::crypto::{RepositoryKey, Seals};
use icecore::format::{ChunkRecord, ChunkRef, Encoding, IndexFile, IndexedPack, Key, ListedPack, PackKind};
use icecore::id::Id;
use icecore::progress::Silent;
use icecore::repository::{Before, ChunkWriter, IndexOptions, NewChunk, Repository, Trust};
use std::hint::black_box;
use std::sync::Arc;

const SIZES: Sizes = Sizes { min: 8 << 10, average: 32 << 10, max: 128 << 10 };

fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut word = || {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        state.wrapping_mul(0x2545_F491_4F6C_DD1D)
    };
    (0..len / 8).flat_map(|_| word().to_le_bytes()).collect()
}

/// Numbers as an index of vectors has them: small, of either sign.
fn floats(len: usize) -> Vec<u8> {
    let number = |bytes: &[u8]| (f32::from(bytes[0]) + f32::from(bytes[1]) - 255.0) / 2000.0;
    noise(len, 3).chunks_exact(4).flat_map(|bytes| number(bytes).to_le_bytes()).collect()
}

fn repository(backend: Arc<dyn Backend>, options: IndexOptions) -> Repository {
    Repository::create(Arc::clone(&backend), [7; 32]).unwrap();
    Repository::open(backend, options).unwrap()
}

fn recorded(cutter: &Cutter, bytes: &[u8]) -> Vec<Recorded> {
    let mut at = 0;
    let lengths = cutter.cut(Cuts::ByContent, bytes, true).into_iter();
    let chunk = |len: usize| {
        at += len;
        Recorded { id: Id::of(&bytes[at - len..at]), len: len as u32 }
    };
    lengths.map(chunk).collect()
}

fn chunking(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("chunking");
    let cutter = Cutter::new(SIZES, 16 << 10);
    let bytes = noise(16 << 20, 1);
    group.throughput(Throughput::Bytes(bytes.len() as u64));
    group.bench_function("cut and hash anew", |bench| bench.iter(|| recorded(&cutter, black_box(&bytes))));
    let known = recorded(&cutter, &bytes);
    let known = &known[..known.len() - 1];
    let len: usize = known.iter().map(|chunk| chunk.len as usize).sum();
    let replayed = |now: &[u8], has_old_bytes: bool| {
        let now = &now[..len + LOOKAHEAD_BYTES.min(now.len() - len)];
        let (mut at, mut before) = (0, Vec::new());
        for chunk in known {
            before.push(at..at + chunk.len as usize);
            at += chunk.len as usize;
        }
        let mut old =
            |number: usize, _: &Id| has_old_bytes.then(|| Arc::new(bytes[before[number].clone()].to_vec()));
        replay(&cutter, Cuts::ByContent, now, known, false, &mut old)
    };
    group
        .bench_function("replay, nothing changed", |bench| bench.iter(|| replayed(black_box(&bytes), false)));
    let mut changed = bytes.clone();
    changed.iter_mut().step_by(50_000).for_each(|byte| *byte ^= 1);
    let half = "replay, half of the chunks changed in place";
    group.bench_function(half, |bench| bench.iter(|| replayed(black_box(&changed), true)));
    group.bench_function(format!("{half}, cut again"), |bench| {
        bench.iter(|| replayed(black_box(&changed), false))
    });
    group.finish();
}

/// Stores the chunks of `new`, each with what `old` has in its place, in a repository that holds those.
fn store(criterion: &mut Criterion, name: &str, old: &[u8], new: &[u8]) {
    const LEN: usize = 32 << 10;
    let mut group = criterion.benchmark_group("store");
    group.throughput(Throughput::Bytes(new.len() as u64)).sample_size(20);
    let before: Vec<[ChunkRef; 1]> =
        old.chunks(LEN).map(|part| [ChunkRef { id: Id::of(part), len: part.len() as u32 }]).collect();
    let held = repository(Arc::new(MemoryBackend::default()), IndexOptions::default());
    let writer = ChunkWriter::new(&held, Trust::Index);
    for part in old.chunks(LEN) {
        writer.put(PackKind::Data, part).unwrap();
    }
    writer.finish(&Silent).unwrap();
    let chunks: Vec<NewChunk<'_>> = new
        .chunks(LEN)
        .enumerate()
        .map(|(number, plain)| NewChunk {
            id: Id::of(plain),
            plain,
            old: Before::Chunks(before.get(number).map_or(&[], |old| old)),
        })
        .collect();
    group.bench_function(name, |bench| {
        bench.iter_batched(
            || ChunkWriter::new(&held, Trust::Index),
            |writer| writer.put_all(PackKind::Data, black_box(&chunks)).unwrap(),
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

fn encoding(criterion: &mut Criterion) {
    let vectors = floats(8 << 20);
    let words: Vec<u8> =
        noise(8 << 20, 5).iter().map(|byte| b"etaoin shrdlu\n"[usize::from(*byte) % 14]).collect();
    store(criterion, "whole, floats by planes", &[], &vectors);
    store(criterion, "whole, text by zstd", &[], &words);
    store(criterion, "whole, noise as it is", &[], &noise(8 << 20, 6));
    let mut changed = vectors.clone();
    changed.iter_mut().step_by(20_011).for_each(|byte| *byte ^= 1);
    store(criterion, "difference, few changes in place", &vectors, &changed);
    let moved = [b"inserted".as_slice(), &words].concat();
    store(criterion, "difference, moved", &words, &moved[..words.len()]);
}

fn packs(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("packs");
    let directory = tempfile::tempdir().unwrap();
    let bytes = noise(32 << 20, 9);
    group.throughput(Throughput::Bytes(bytes.len() as u64)).sample_size(10);
    let held = repository(Arc::new(LocalBackend::new(directory.path())), IndexOptions::default());
    let mut turn = 0u64;
    group.bench_function("write, durable", |bench| {
        bench.iter_batched(
            || {
                turn += 1;
                let mut own = bytes.clone();
                own.chunks_mut(32 << 10).for_each(|part| part[..8].copy_from_slice(&turn.to_le_bytes()));
                own
            },
            |own| {
                let writer = ChunkWriter::new(&held, Trust::Index);
                for part in own.chunks(32 << 10) {
                    writer.put(PackKind::Data, part).unwrap();
                }
                writer.finish(&Silent).unwrap()
            },
            BatchSize::PerIteration,
        );
    });
    let writer = ChunkWriter::new(&held, Trust::Index);
    let ids: Vec<Id> = bytes.chunks(32 << 10).map(|part| writer.put(PackKind::Data, part).unwrap()).collect();
    let written = writer.finish(&Silent).unwrap();
    group.bench_function("read chunk by chunk", |bench| {
        bench.iter(|| ids.iter().map(|id| held.read_chunk(id).unwrap().len()).sum::<usize>());
    });
    group.bench_function("prove", |bench| {
        bench.iter(|| written.packs.iter().map(|pack| held.prove_pack(pack).unwrap()).sum::<u64>());
    });
    group.finish();
}

/// A repository whose index lists a million chunks in packs that are there by name only.
fn listed(options: IndexOptions) -> (Repository, Vec<Id>) {
    let backend: Arc<dyn Backend> = Arc::new(MemoryBackend::default());
    let held = Repository::create(Arc::clone(&backend), [7; 32]).unwrap();
    drop(held);
    let ids: Vec<Id> = (0..1_000_000u64).map(|number| Id::of(&number.to_le_bytes())).collect();
    let record = |id: &Id| ChunkRecord {
        id: *id,
        stored_len: 0,
        plain_len: 0,
        encoding: Encoding::RAW,
        bases: Box::default(),
    };
    let pack_of = |(number, ids): (usize, &[Id])| {
        let pack = Id::of(&number.to_be_bytes());
        backend.put(&Key::Pack(pack).path(), b"8 bytes.").unwrap();
        ListedPack::from(&IndexedPack {
            pack,
            kind: PackKind::Data,
            records: ids.iter().map(record).collect(),
        })
    };
    let packs = ids.chunks(1000).enumerate().map(pack_of).collect();
    let bytes = IndexFile { packs }.encode();
    backend.put(&Key::Index(Id::of(&bytes)).path(), &bytes).unwrap();
    (Repository::open(backend, options).unwrap(), ids)
}

fn index(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("index of a million chunks");
    let cache = tempfile::tempdir().unwrap();
    let in_rocks = || IndexOptions { cache_directory: Some(cache.path().to_owned()), memory_limit_bytes: 0 };
    let strangers: Vec<Id> = (0..10_000u64).map(|number| Id::of(&number.to_be_bytes()[1..])).collect();
    for (name, options) in [("memory", IndexOptions::default()), ("RocksDB", in_rocks())] {
        group.sample_size(10);
        group.bench_function(format!("{name}: load"), |bench| {
            bench.iter_batched(
                || {
                    drop(std::fs::remove_dir_all(cache.path().join(Id::of(&[7; 32]).hex())));
                    listed(options.clone()).0
                },
                |held| held.index().unwrap().describe(),
                BatchSize::PerIteration,
            );
        });
        let (held, ids) = listed(options);
        held.index().unwrap();
        group.throughput(Throughput::Elements(10_000));
        let look = |ids: &[Id]| ids.iter().filter(|id| held.has_chunk(id).unwrap()).count();
        let some: Vec<Id> = ids.iter().step_by(100).copied().collect();
        assert_eq!((look(&some), look(&strangers)), (10_000, 0));
        group.bench_function(format!("{name}: 10,000 that are there"), |bench| bench.iter(|| look(&some)));
        group.bench_function(format!("{name}: 10,000 that are not"), |bench| bench.iter(|| look(&strangers)));
    }
    group.finish();
}

/// What sealing a chunk of the usual length costs, beside the same with XChaCha20-Poly1305.
fn seal(criterion: &mut Criterion) {
    use chacha20poly1305::aead::{AeadInPlace, KeyInit};
    let mut group = criterion.benchmark_group("seal");
    let plain = noise(32 << 10, 1);
    group.throughput(Throughput::Bytes(plain.len() as u64));
    let seals = Seals::by(RepositoryKey::random().unwrap());
    let about = [7u8; 9];
    group.bench_function("chunk, AES-256-GCM", |bencher| {
        bencher.iter_batched(
            || plain.clone(),
            |plain| seals.seal_chunk(&about, plain).unwrap(),
            BatchSize::SmallInput,
        );
    });
    let sealed = seals.seal_chunk(&about, plain.clone()).unwrap();
    group.bench_function("open, AES-256-GCM", |bencher| {
        bencher.iter_batched(
            || sealed.clone(),
            |sealed| seals.open_chunk(&about, sealed).unwrap(),
            BatchSize::SmallInput,
        );
    });
    let cipher = chacha20poly1305::XChaCha20Poly1305::new(&[7; 32].into());
    group.bench_function("chunk, XChaCha20-Poly1305", |bencher| {
        bencher.iter_batched(
            || plain.clone(),
            |mut plain| {
                cipher.encrypt_in_place_detached(&[1; 24].into(), &about, &mut plain).unwrap();
                plain
            },
            BatchSize::SmallInput,
        );
    });
    group.bench_function("keyed BLAKE3 of the chunk", |bencher| {
        bencher.iter(|| seals.naming().id_of(&plain));
    });
    group.finish();
}

criterion_group!(benches, chunking, encoding, packs, index, seal);
criterion_main!(benches);
