//! Chroma-shaped directories without Chroma: layout, what is skipped, what the judge notices.

use crate::support::{Scratch, describe, put, settle};
use std::path::Path;

const SEGMENT: &str = "11111111-2222-3333-4444-555555555555";
const ORPHAN: &str = "99999999-2222-3333-4444-555555555555";
const DIM: u64 = 8;
const ELEMENT: u64 = 132 + DIM * 4 + 8;

fn header(elements: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend_from_slice(&1u32.to_le_bytes());
    for value in [0u64, 1000, elements, ELEMENT, ELEMENT - 8, 132] {
        bytes.extend_from_slice(&value.to_le_bytes());
    }
    bytes.extend_from_slice(&0i32.to_le_bytes());
    bytes.extend_from_slice(&0u32.to_le_bytes());
    for value in [16u64, 32, 16] {
        bytes.extend_from_slice(&value.to_le_bytes());
    }
    bytes.extend_from_slice(&0.5f64.to_le_bytes());
    bytes.extend_from_slice(&100u64.to_le_bytes());
    bytes
}

/// An element of label `label` without links, all ones.
fn element(label: u64) -> Vec<u8> {
    let ones = std::iter::repeat_n(1f32.to_le_bytes(), DIM as usize).flatten();
    [0u8; 132].into_iter().chain(ones).chain(label.to_le_bytes()).collect()
}

/// The pickle of ids `id1` up to `id<elements>`, as chromadb 1.x writes it.
fn pickle(elements: u64) -> Vec<u8> {
    let text = |text: &str| [b"X", (text.len() as u32).to_le_bytes().as_slice(), text.as_bytes()].concat();
    let number = |number: u64| [b"J", (number as u32).to_le_bytes().as_slice()].concat();
    let mut bytes = b"\x80\x03}(".to_vec();
    bytes.extend([text("total_elements_added"), number(elements), text("id_to_label")].concat());
    bytes.extend(b"}(");
    bytes.extend((1..=elements).flat_map(|n| [text(&format!("id{n}")), number(n)].concat()));
    bytes.extend([b"u".to_vec(), text("label_to_id"), b"}(".to_vec()].concat());
    bytes.extend((1..=elements).flat_map(|n| [number(n), text(&format!("id{n}"))].concat()));
    bytes.extend(b"uu.");
    bytes
}

/// A store with one collection of `elements` vectors, and a directory that belongs to no collection.
fn store(scratch: &Scratch, elements: u64) {
    let database = scratch.mkdir("store").join("chroma.sqlite3");
    let connection = rusqlite::Connection::open(database).unwrap();
    connection
        .execute_batch(&format!(
            "CREATE TABLE migrations(dir TEXT, version INTEGER, filename TEXT, sql TEXT, hash TEXT);
             CREATE TABLE collections(id TEXT, name TEXT, dimension INTEGER);
             CREATE TABLE collection_metadata(collection_id TEXT, key TEXT, str_value TEXT);
             CREATE TABLE segment_metadata(segment_id TEXT, key TEXT, str_value TEXT);
             CREATE TABLE segments(id TEXT, type TEXT, scope TEXT, collection TEXT);
             CREATE TABLE max_seq_id(segment_id TEXT, seq_id INTEGER);
             CREATE TABLE embeddings(id INTEGER PRIMARY KEY, segment_id TEXT, embedding_id TEXT, seq_id INTEGER);
             CREATE UNIQUE INDEX ids ON embeddings(segment_id, embedding_id);
             CREATE TABLE embedding_metadata(id INTEGER, key TEXT);
             CREATE TABLE embedding_fulltext_search_docsize(id INTEGER);
             CREATE TABLE embeddings_queue(seq_id INTEGER PRIMARY KEY, operation INTEGER, topic TEXT, id TEXT,
                 vector BLOB, encoding TEXT);
             INSERT INTO collections VALUES('c1', 'docs', {DIM});
             INSERT INTO segments VALUES
                 ('{SEGMENT}', 'urn:chroma:segment/vector/hnsw-local-persisted', 'VECTOR', 'c1'),
                 ('m1', 'urn:chroma:segment/metadata/sqlite', 'METADATA', 'c1');
             INSERT INTO max_seq_id VALUES('{SEGMENT}', {elements}), ('m1', {elements});
             INSERT INTO embeddings_queue VALUES
                 ({elements} + 1, 3, 'persistent://default/default/c1', 'nobody', NULL, NULL);
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<{elements})
             INSERT INTO embeddings SELECT i, 'm1', 'id' || i, i FROM n WHERE i <= {elements};"
        ))
        .unwrap();
    let file = |name: &str, bytes: Vec<u8>| scratch.file(&format!("store/{SEGMENT}/{name}"), bytes);
    file("header.bin", header(elements));
    let data: Vec<u8> = (1..=elements).flat_map(element).collect();
    file("data_level0.bin", data);
    file("length.bin", vec![0; 4 * elements as usize]);
    file("link_lists.bin", vec![0; 4 * elements as usize]);
    file("index_metadata.pickle", pickle(elements));
    scratch.file(&format!("store/{ORPHAN}/header.bin"), "old");
    std::thread::sleep(std::time::Duration::from_millis(120));
}

#[test]
fn all_files_of_the_layout_and_nothing_else() {
    let scratch = Scratch::new();
    scratch.init();
    store(&scratch, 50);
    scratch.file("store/my notes.txt", "kept");
    settle();
    let document = scratch.ok(["backup", "store"]);
    assert_eq!(document["sources"]["store"]["kind"], "chroma");
    assert_eq!(
        (&document["sources"]["store"]["consistency"], &document["sources"]["store"]["files"]),
        (&"locked".into(), &7.into())
    );
    let shown = scratch.ok(["show"]);
    let details = &shown["snapshot"]["source_details"]["store"];
    assert_eq!(details["notes"][0]["path"], ORPHAN);
    assert_eq!(
        details["collections"][0],
        serde_json::json!({ "name": "docs", "live_ids": 50, "labels": 50, "queue_tail": 1 })
    );
    scratch.ok(["restore", "latest", "-t", "out"]);
    std::fs::remove_dir_all(scratch.path("store").join(ORPHAN)).unwrap();
    let strip = |path: &Path| -> Vec<String> { describe(path, false) };
    assert_eq!(strip(&scratch.path("out/store")), strip(&scratch.path("store")));
    let again = scratch.ok(["backup", "store"]);
    assert_eq!((&again["new_bytes"], &again["sources"]["store"]["unchanged_files"]), (&0.into(), &7.into()));
}

#[test]
fn what_chroma_could_not_open_is_not_published() {
    type Break = fn(&Scratch);
    fn segment(scratch: &Scratch, name: &str) -> std::path::PathBuf {
        scratch.path("store").join(SEGMENT).join(name)
    }
    let cases: [(&str, Break); 9] = [
        ("store_hnsw_metadata_unreadable", |scratch| put(&segment(scratch, "index_metadata.pickle"), b"")),
        ("store_hnsw_metadata_unreadable", |scratch| {
            put(&segment(scratch, "index_metadata.pickle"), b"\x80\x03}q")
        }),
        ("store_hnsw_data_short", |scratch| put(&segment(scratch, "data_level0.bin"), vec![0; 100])),
        ("store_hnsw_length_short", |scratch| put(&segment(scratch, "length.bin"), [0; 8])),
        ("store_hnsw_header_size", |scratch| put(&segment(scratch, "header.bin"), [0; 99])),
        ("store_hnsw_header_version", |scratch| put(&segment(scratch, "header.bin"), [7; 100])),
        ("store_hnsw_link_lists_invalid", |scratch| put(&segment(scratch, "link_lists.bin"), [3; 200])),
        ("store_hnsw_file_missing", |scratch| {
            std::fs::remove_file(segment(scratch, "index_metadata.pickle")).unwrap()
        }),
        ("store_segment_dir_missing", |scratch| {
            std::fs::remove_dir_all(scratch.path("store").join(SEGMENT)).unwrap()
        }),
    ];
    for (code, damage) in cases {
        let scratch = Scratch::new();
        scratch.init();
        store(&scratch, 50);
        damage(&scratch);
        let (exit, document) = scratch.json(["backup", "store", "--validate", "full"]);
        assert_eq!((exit, document["errors"][0].as_str().unwrap()), (20, code), "{document:#}");
        assert!(scratch.repository_files("snapshots").is_empty());
    }
}

#[test]
fn fresh_and_empty_stores_are_fine() {
    let scratch = Scratch::new();
    scratch.init();
    store(&scratch, 0);
    // Created a moment ago: no pickle, files in any state, nothing applied.
    std::fs::remove_file(scratch.path("store").join(SEGMENT).join("index_metadata.pickle")).unwrap();
    let database = scratch.path("store/chroma.sqlite3");
    rusqlite::Connection::open(&database).unwrap().execute_batch("DELETE FROM max_seq_id").unwrap();
    scratch.ok(["backup", "store", "--validate", "full"]);
    std::fs::remove_dir_all(scratch.path("store").join(SEGMENT)).unwrap();
    scratch.ok(["backup", "store", "--validate", "full"]);
}

#[test]
fn another_database_in_the_store_is_settled_without_its_sidecars() {
    let scratch = Scratch::new();
    scratch.init();
    store(&scratch, 10);
    let other = rusqlite::Connection::open(scratch.path("store/other.db")).unwrap();
    other.execute_batch("PRAGMA journal_mode=WAL; CREATE TABLE t(a); INSERT INTO t VALUES(1)").unwrap();
    scratch.ok(["backup", "store"]);
    let listed = scratch.ok(["ls", "latest", "store"]);
    let names: Vec<&str> =
        listed["entries"].as_array().unwrap().iter().map(|entry| entry["path"].as_str().unwrap()).collect();
    assert_eq!(names.len(), 3, "{names:?}");
    scratch.ok(["restore", "latest", "-t", "out"]);
    let restored = rusqlite::Connection::open(scratch.path("out/store/other.db")).unwrap();
    let value: i64 = restored.query_row("SELECT a FROM t", [], |row| row.get(0)).unwrap();
    assert_eq!(value, 1);
}

#[test]
fn an_optional_store_that_lost_its_database_is_an_error() {
    let scratch = Scratch::new();
    scratch.init();
    store(&scratch, 10);
    std::fs::remove_file(scratch.path("store/chroma.sqlite3")).unwrap();
    scratch.file("a.json", "{}");
    scratch.file("icecore.toml", "[source.a]\npath = \"a.json\"\n[source.store]\nkind = \"chroma\"\npath = \"store\"\noptional = true\n");
    let (code, document) = scratch.json(["backup"]);
    assert_eq!((code, document["error"]["code"].as_str().unwrap()), (1, "source_missing"));
}

#[test]
fn a_persist_in_flight_is_waited_for() {
    let scratch = Scratch::new();
    scratch.init();
    store(&scratch, 10);
    // Chroma has rewritten the arrays 100 ms ago and is about to write the pickle.
    put(&scratch.path("store").join(SEGMENT).join("length.bin"), [0; 40]);
    // The same maps in other bytes.
    let mut later = pickle(10);
    later.splice(3..3, *b"q\x00");
    std::thread::sleep(std::time::Duration::from_millis(100));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(std::time::Duration::from_millis(700));
            put(&scratch.path("store").join(SEGMENT).join("index_metadata.pickle"), &later);
        });
        scratch.ok(["backup", "store"]);
    });
    scratch.ok(["restore", "latest", "-t", "out"]);
    let pickle =
        std::fs::read(scratch.path("out/store").join(SEGMENT).join("index_metadata.pickle")).unwrap();
    assert_eq!(pickle, later, "the pickle that belongs to the arrays");
}
