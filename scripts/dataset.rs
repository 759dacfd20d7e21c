//! Makes, and lets grow, a directory shaped like a large Chroma store, for `scripts/bench` and `restore-speed`:
//! HNSW files with unit vectors and a database with queue rows, metadata and full-text search. 250,000 elements a segment
//! make 2.04 GB, 0.74 GB of it the database. The same arguments give the same bytes.

use rusqlite::Connection;
use std::error::Error;
use std::fs::{self, File, OpenOptions};
use std::io::{BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

type Done = Result<(), Box<dyn Error>>;

const SEGMENTS: u64 = 3;
const DIMENSION: usize = 384;
const LINK_BYTES: usize = 132;
const ELEMENT_BYTES: u64 = (LINK_BYTES + 4 * DIMENSION + 8) as u64;

fn main() -> Done {
    let arguments: Vec<String> = std::env::args().collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [_, "make", place, elements] => make(Path::new(place), elements.parse()?),
        [_, "grow", place, turn] => grow(Path::new(place), turn.parse()?),
        [_, "check", database] => check(Path::new(database)),
        _ => Err("usage: dataset make DIRECTORY ELEMENTS_PER_SEGMENT | dataset grow DIRECTORY TURN \
            | dataset check DATABASE"
            .into()),
    }
}

/// SQLite's own check, by the version that icecore contains: later ones check full-text indexes too.
fn check(database: &Path) -> Done {
    let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
    let connection = Connection::open_with_flags(database, flags)?;
    let found: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0))?;
    if found == "ok" { Ok(()) } else { Err(found.into()) }
}

/// xorshift64*: fast, and the same everywhere.
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    /// Nearly normal: the sum of four uniform numbers.
    fn normal(&mut self) -> f32 {
        let bits = self.next();
        let sum: i32 = (0..4).map(|part| ((bits >> (16 * part)) & 0xffff) as i32).sum();
        (sum - 131_070) as f32 / 37_837.0
    }

    fn unit_vector(&mut self) -> Vec<u8> {
        let numbers: Vec<f32> = (0..DIMENSION).map(|_| self.normal()).collect();
        let norm = numbers.iter().map(|number| number * number).sum::<f32>().sqrt();
        numbers.iter().flat_map(|number| (number / norm).to_le_bytes()).collect()
    }
}

fn element(label: u64, count: u64, random: &mut Random) -> Vec<u8> {
    let links = 8 + random.below(24) as usize;
    let mut bytes = vec![0; LINK_BYTES];
    bytes[0] = links as u8;
    for slot in 0..links {
        let target = (random.below(count) as u32).to_le_bytes();
        bytes[4 + 4 * slot..8 + 4 * slot].copy_from_slice(&target);
    }
    bytes.extend(random.unit_vector());
    bytes.extend(label.to_le_bytes());
    bytes
}

fn segment(place: &Path, number: u64) -> std::path::PathBuf {
    place.join(format!("{number:08x}-0000-4000-8000-000000000000"))
}

fn make(place: &Path, elements: u64) -> Done {
    for number in 0..SEGMENTS {
        let directory = segment(place, number);
        fs::create_dir_all(&directory)?;
        let mut random = Random::new(number + 1);
        let mut data = BufWriter::with_capacity(1 << 20, File::create(directory.join("data_level0.bin"))?);
        for label in 0..elements {
            data.write_all(&element(label, elements, &mut random))?;
        }
        data.flush()?;
        rewrite_small_files(&directory, elements)?;
    }
    let database = Connection::open(place.join("chroma.sqlite3"))?;
    database.execute_batch(
        "CREATE TABLE embeddings_queue(seq_id INTEGER PRIMARY KEY, id TEXT, vector BLOB, metadata TEXT);
         CREATE TABLE embedding_metadata(id INTEGER, key TEXT, string_value TEXT, PRIMARY KEY(id, key));
         CREATE VIRTUAL TABLE embedding_fulltext_search USING fts5(string_value, tokenize='trigram')",
    )?;
    add_rows(&database, 0..elements, 7)
}

/// +0.5 % elements, one to four link slots of 3 % of the old ones changed in place, the small files written anew; in the
/// database +0.5 % rows, 0.1 % updated, 0.1 % deleted.
fn grow(place: &Path, turn: u64) -> Done {
    let mut elements = 0;
    for number in 0..SEGMENTS {
        let directory = segment(place, number);
        let file = OpenOptions::new().read(true).write(true).open(directory.join("data_level0.bin"))?;
        elements = file.metadata()?.len() / ELEMENT_BYTES;
        let added = elements / 200;
        let mut random = Random::new(1000 * turn + number);
        for _ in 0..elements * 3 / 100 {
            let place = random.below(elements) * ELEMENT_BYTES + 4;
            for _ in 0..=random.below(4) {
                let slot = random.below(32);
                file.write_all_at(&(random.below(elements + added) as u32).to_le_bytes(), place + 4 * slot)?;
            }
        }
        for label in elements..elements + added {
            file.write_all_at(&element(label, elements + added, &mut random), label * ELEMENT_BYTES)?;
        }
        rewrite_small_files(&directory, elements + added)?;
    }
    let database = Connection::open(place.join("chroma.sqlite3"))?;
    let mut random = Random::new(turn);
    database.execute_batch("BEGIN")?;
    for _ in 0..elements / 1000 {
        update_row(&database, random.below(elements), &text(&mut random))?;
        delete_row(&database, random.below(elements))?;
    }
    database.execute_batch("COMMIT")?;
    add_rows(&database, elements..elements + elements / 200, 100 + turn)
}

/// Header, lengths, link lists and the pickle: short, and all new at each persist.
fn rewrite_small_files(directory: &Path, elements: u64) -> Done {
    let mut header = 1u32.to_le_bytes().to_vec();
    for value in [0, 2 * elements, elements, ELEMENT_BYTES, ELEMENT_BYTES - 8, LINK_BYTES as u64] {
        header.extend(value.to_le_bytes());
    }
    header.extend([0; 8]);
    for value in [16u64, 32, 16] {
        header.extend(value.to_le_bytes());
    }
    header.extend(0.36f64.to_le_bytes());
    header.extend(100u64.to_le_bytes());
    let save = |name: &str, bytes: &[u8]| File::create(directory.join(name))?.write_all(bytes);
    save("header.bin", &header)?;
    save("length.bin", &1f32.to_le_bytes().repeat(elements as usize))?;
    save("link_lists.bin", &0u32.to_le_bytes().repeat(elements as usize))?;
    let text = |text: &str| [b"X", (text.len() as u32).to_le_bytes().as_slice(), text.as_bytes()].concat();
    let number = |number: u64| [b"J", (number as u32).to_le_bytes().as_slice()].concat();
    let id = |label: u64| text(&format!("{:08x}{label:08}", label.wrapping_mul(2_654_435_761) as u32));
    let mut pickle = b"\x80\x03}(".to_vec();
    pickle.extend([text("total_elements_added"), number(elements.saturating_sub(1))].concat());
    pickle.extend([text("id_to_label"), b"}(".to_vec()].concat());
    pickle.extend((0..elements).flat_map(|label| [id(label), number(label)].concat()));
    pickle.extend([b"u".to_vec(), text("label_to_id"), b"}(".to_vec()].concat());
    pickle.extend((0..elements).flat_map(|label| [number(label), id(label)].concat()));
    pickle.extend(b"uu.");
    save("index_metadata.pickle", &pickle)?;
    Ok(())
}

fn text(random: &mut Random) -> String {
    const WORDS: [&str; 16] = [
        "glacier", "layer", "core", "drill", "dust", "oxygen", "depth", "winter", "summer", "ash", "record",
        "bubble", "methane", "thaw", "slab", "year",
    ];
    let count = 10 + random.below(20);
    let words = (0..count).map(|_| format!("{}{}", WORDS[random.below(16) as usize], random.below(500)));
    words.collect::<Vec<_>>().join(" ")
}

fn add_rows(database: &Connection, numbers: std::ops::Range<u64>, seed: u64) -> Done {
    let mut random = Random::new(seed);
    database.execute_batch("BEGIN")?;
    let mut queue = database.prepare("INSERT INTO embeddings_queue VALUES(?1, ?2, ?3, ?4)")?;
    let mut metadata =
        database.prepare("INSERT INTO embedding_metadata VALUES(?1, 'chroma:document', ?2)")?;
    let mut search =
        database.prepare("INSERT INTO embedding_fulltext_search(rowid, string_value) VALUES(?1, ?2)")?;
    for number in numbers {
        let (id, body) = (number as i64, text(&mut random));
        // A queue that was never purged: every record with its vector, and two of these fill a page.
        queue.execute((id, format!("document-{number}"), random.unit_vector(), &body))?;
        metadata.execute((id, &body))?;
        search.execute((id, &body))?;
    }
    database.execute_batch("COMMIT")?;
    Ok(())
}

fn update_row(database: &Connection, number: u64, body: &str) -> Done {
    let row = (number as i64, body);
    database.execute("UPDATE embedding_metadata SET string_value = ?2 WHERE id = ?1", row)?;
    database.execute("UPDATE embedding_fulltext_search SET string_value = ?2 WHERE rowid = ?1", row)?;
    Ok(())
}

fn delete_row(database: &Connection, number: u64) -> Done {
    let id = [number as i64];
    database.execute("DELETE FROM embeddings_queue WHERE seq_id = ?1", id)?;
    database.execute("DELETE FROM embedding_metadata WHERE id = ?1", id)?;
    database.execute("DELETE FROM embedding_fulltext_search WHERE rowid = ?1", id)?;
    Ok(())
}
