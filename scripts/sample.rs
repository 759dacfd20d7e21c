//! Makes, changes and checks the small service that `scripts/demo` backs up. Needs neither Python nor Chroma.

use rusqlite::Connection;
use std::error::Error;
use std::fs;
use std::path::Path;

type Done = Result<(), Box<dyn Error>>;

const SEGMENT: &str = "0b9a2f6e-5d0c-4f0e-9a43-2f3d6f1f7c11";
const DIMENSION: usize = 64;
const ROWS: u32 = 2000;

fn main() -> Done {
    let arguments: Vec<String> = std::env::args().collect();
    let (Some(verb), Some(place)) = (arguments.get(1), arguments.get(2)) else {
        return Err("usage: sample make|change|check DIRECTORY".into());
    };
    let place = Path::new(place);
    match verb.as_str() {
        "make" => make(place),
        "change" => change(place),
        "check" => check(place),
        other => Err(format!("unknown verb {other}").into()),
    }
}

fn make(place: &Path) -> Done {
    fs::create_dir_all(place.join("chroma").join(SEGMENT))?;
    let notes = Connection::open(place.join("notes.db"))?;
    notes.execute_batch(
        "CREATE TABLE notes(id INTEGER PRIMARY KEY, text); CREATE VIRTUAL TABLE words USING fts5(text)",
    )?;
    add_notes(&notes, 1..=ROWS)?;
    save(&place.join("registry.json"), br#"{"projects": ["one", "two"]}"#)?;
    let store = Connection::open(place.join("chroma/chroma.sqlite3"))?;
    store.execute_batch(&format!(
        "CREATE TABLE migrations(dir TEXT, version INTEGER, filename TEXT, sql TEXT, hash TEXT);
         CREATE TABLE collections(id TEXT PRIMARY KEY, name TEXT, dimension INTEGER);
         CREATE TABLE collection_metadata(collection_id TEXT, key TEXT, str_value TEXT);
         CREATE TABLE segment_metadata(segment_id TEXT, key TEXT, str_value TEXT);
         CREATE TABLE segments(id TEXT PRIMARY KEY, type TEXT, scope TEXT, collection TEXT);
         CREATE TABLE max_seq_id(segment_id TEXT PRIMARY KEY, seq_id INTEGER);
         CREATE TABLE embeddings(id INTEGER PRIMARY KEY, segment_id TEXT, embedding_id TEXT, seq_id INTEGER,
             UNIQUE(segment_id, embedding_id));
         CREATE TABLE embedding_metadata(id INTEGER, key TEXT);
         CREATE TABLE embedding_fulltext_search_docsize(id INTEGER);
         CREATE TABLE embeddings_queue(seq_id INTEGER PRIMARY KEY, operation INTEGER, topic TEXT, id TEXT,
             vector BLOB, encoding TEXT);
         INSERT INTO collections VALUES('c', 'documents', {DIMENSION});
         INSERT INTO segments VALUES('{SEGMENT}', 'urn:chroma:segment/vector/hnsw-local-persisted', 'VECTOR', 'c');
         INSERT INTO segments VALUES('m', 'urn:chroma:segment/metadata/sqlite', 'METADATA', 'c')"
    ))?;
    add_vectors(place, &store, 1..=ROWS)
}

fn change(place: &Path) -> Done {
    add_notes(&Connection::open(place.join("notes.db"))?, ROWS + 1..=ROWS + 50)?;
    add_vectors(place, &Connection::open(place.join("chroma/chroma.sqlite3"))?, ROWS + 1..=ROWS + 50)
}

/// The state that `make` left.
fn check(place: &Path) -> Done {
    let count = |file: &str, query: &str| -> Result<u32, Box<dyn Error>> {
        Ok(Connection::open(place.join(file))?.query_row(query, [], |row| row.get(0))?)
    };
    let notes = count("notes.db", "SELECT count(*) FROM words WHERE words MATCH 'note'")?;
    let vectors = count("chroma/chroma.sqlite3", "SELECT count(*) FROM embeddings")?;
    let registry = fs::read_to_string(place.join("registry.json"))?;
    if (notes, vectors) != (ROWS, ROWS) || !registry.contains("two") {
        return Err(format!("not the first state: {notes} notes, {vectors} vectors, {registry}").into());
    }
    Ok(())
}

fn add_notes(notes: &Connection, numbers: std::ops::RangeInclusive<u32>) -> Done {
    notes.execute_batch("BEGIN")?;
    for number in numbers {
        let text = format!("note {number}: {}", "all work and no play ".repeat(number as usize % 9));
        notes.execute("INSERT INTO notes VALUES(?1, ?2)", (number, &text))?;
        notes.execute("INSERT INTO words VALUES(?1)", [&text])?;
    }
    notes.execute_batch("COMMIT")?;
    Ok(())
}

/// Adds rows to the store's database and elements to its HNSW files, in hnswlib's layout.
fn add_vectors(place: &Path, store: &Connection, numbers: std::ops::RangeInclusive<u32>) -> Done {
    let last = *numbers.end();
    store.execute_batch("BEGIN")?;
    for number in numbers {
        let row = (number, format!("id-{number}"));
        store.execute("INSERT INTO embeddings VALUES(?1, 'm', ?2, ?1)", row)?;
    }
    for segment in [SEGMENT, "m"] {
        store.execute("INSERT OR REPLACE INTO max_seq_id VALUES(?1, ?2)", (segment, last))?;
    }
    store.execute_batch("COMMIT")?;
    let segment = place.join("chroma").join(SEGMENT);
    save(&segment.join("header.bin"), &header(u64::from(last)))?;
    save(&segment.join("data_level0.bin"), &elements(last))?;
    save(&segment.join("length.bin"), &1f32.to_le_bytes().repeat(last as usize))?;
    save(&segment.join("link_lists.bin"), &0u32.to_le_bytes().repeat(last as usize))?;
    save(&segment.join("index_metadata.pickle"), &pickle(last))
}

fn element_bytes() -> u64 {
    132 + 4 * DIMENSION as u64 + 8
}

fn header(count: u64) -> Vec<u8> {
    let mut bytes = 1u32.to_le_bytes().to_vec();
    for value in [0, 10_000, count, element_bytes(), element_bytes() - 8, 132] {
        bytes.extend_from_slice(&value.to_le_bytes());
    }
    bytes.extend_from_slice(&[0; 8]);
    for value in [16u64, 32, 16] {
        bytes.extend_from_slice(&value.to_le_bytes());
    }
    bytes.extend_from_slice(&0.36f64.to_le_bytes());
    bytes.extend_from_slice(&100u64.to_le_bytes());
    bytes
}

fn elements(count: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut state = 1u32;
    for label in 1..=u64::from(count) {
        bytes.extend_from_slice(&[0; 132]);
        for _ in 0..DIMENSION {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            bytes.extend_from_slice(&(f32::from((state >> 16) as u16) / 65_536.0 - 0.5).to_le_bytes());
        }
        bytes.extend_from_slice(&label.to_le_bytes());
    }
    bytes
}

/// The maps between `id-<number>` and labels, as chromadb 1.x writes them.
fn pickle(count: u32) -> Vec<u8> {
    let text = |text: &str| [b"X", (text.len() as u32).to_le_bytes().as_slice(), text.as_bytes()].concat();
    let number = |number: u32| [b"J", number.to_le_bytes().as_slice()].concat();
    let mut bytes = b"\x80\x03}(".to_vec();
    bytes.extend([text("total_elements_added"), number(count), text("id_to_label"), b"}(".to_vec()].concat());
    bytes.extend((1..=count).flat_map(|label| [text(&format!("id-{label}")), number(label)].concat()));
    bytes.extend([b"u".to_vec(), text("label_to_id"), b"}(".to_vec()].concat());
    bytes.extend((1..=count).flat_map(|label| [number(label), text(&format!("id-{label}"))].concat()));
    bytes.extend(b"uu.");
    bytes
}

fn save(path: &Path, bytes: &[u8]) -> Done {
    use std::io::Write;
    Ok(fs::File::create(path)?.write_all(bytes)?)
}
