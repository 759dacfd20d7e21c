//! The judge of Chroma stores: real stores of several versions are good, and each kind of damage has its code.

use crate::support::{Scratch, missing, put, python, run};
use icecore::format::{Entry, EntryKind, Level, SourceKind};
use icecore::progress::Stop;
use icecore::source::{FullTexts, JudgeOptions, ReadAt, StoredFiles};
use rusqlite::Connection;
use serde_json::Value;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// `STORE`: writes collections in all three spaces, with persisted parts and queue tails, a fresh and an empty one.
const WRITE: &str = r#"
import random, sys
import chromadb
from chromadb.config import Settings

client = chromadb.PersistentClient(sys.argv[1], Settings(anonymized_telemetry=False))
def vector(*seed):
    r = random.Random(repr(seed)); return [r.gauss(0, 1) for _ in range(16)]
for name, space in {"euclid": "l2", "cosine": "cosine", "inner": "ip"}.items():
    c = client.create_collection(name, metadata={"hnsw:space": space, "hnsw:sync_threshold": 50, "hnsw:batch_size": 20}, embedding_function=None)
    ids = [f"id-{i}" for i in range(120)]
    c.add(ids=ids, embeddings=[vector(name, i) for i in ids], documents=[f"document {i}" for i in ids], metadatas=[{"n": n} for n in range(120)])
    c.upsert(ids=ids[:10] + ["new"], embeddings=[vector(name, "up", i) for i in range(11)], documents=["upserted"] * 11)
    c.update(ids=ids[20:30], embeddings=[vector(name, "changed", i) for i in range(10)])
    c.delete(ids=ids[40:50])
    c.add(ids=["later"], embeddings=[vector(name, "later")])
    c.add(ids=[f"more-{i}" for i in range(55)], embeddings=[vector(name, "more", i) for i in range(55)])
    c.add(ids=["id-7"], embeddings=[vector("an add of a known id is ignored")])
    c.delete(ids=["more-1", "id-3"])
    c.update(ids=["more-2"], embeddings=[vector(name, "tail")], metadatas=[{"n": 7}])
    c.update(ids=["nobody"], embeddings=[vector(name, "nobody")])
    c.upsert(ids=["tail"], embeddings=[vector(name, "tail 2")])
    c.delete(ids=["later"]); c.add(ids=["later"], embeddings=[vector(name, "later again")])
fresh = client.create_collection("fresh", embedding_function=None)
fresh.add(ids=["a", "b", "c"], embeddings=[vector(i) for i in range(3)])
fresh.delete(ids=["b"])
client.create_collection("empty", embedding_function=None)
small = client.create_collection("small", metadata={"hnsw:sync_threshold": 5, "hnsw:batch_size": 3}, embedding_function=None)
small.add(ids=list("abcdefgh"), embeddings=[vector(i) for i in range(8)])
# The last record before the persist is an add of a known id: ignored, and what the purge leaves.
again = client.create_collection("again", metadata={"hnsw:sync_threshold": 5, "hnsw:batch_size": 5}, embedding_function=None)
again.add(ids=list("abcd"), embeddings=[vector(i) for i in range(4)])
again.add(ids=["a"], embeddings=[vector("ignored")])
gone = client.create_collection("gone", embedding_function=None)
gone.add(ids=["a", "b"], embeddings=[vector(1), vector(2)]); client.delete_collection("gone")
"#;

/// `PICKLE CODE`: changes the dictionary `d` of a 1.x pickle.
const EDIT_PICKLE: &str = r#"
import pickle, sys
d = pickle.load(open(sys.argv[1], "rb"))
exec(sys.argv[2])
pickle.dump(d, open(sys.argv[1], "wb"), 3)
"#;

fn write_store(python: &Path, store: &Path) {
    run(Command::new(python).args(["-c", WRITE]).arg(store).env("ANONYMIZED_TELEMETRY", "False"));
}

/// The Pythons with a chromadb that are there, by its version.
fn chromas() -> Vec<(String, PathBuf)> {
    let Some(newest) = python() else { return Vec::new() };
    let cache = newest.ancestors().nth(3).unwrap().to_owned();
    let mut found = vec![("1.5.9".to_owned(), newest)];
    for entry in std::fs::read_dir(cache).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if let Some(version) = name.strip_prefix("chroma-") {
            found.push((version.to_owned(), path.join("bin/python")));
        }
    }
    found
}

/// Codes of the newest snapshot's findings, without the source's name.
fn warnings_of(scratch: &Scratch) -> (BTreeSet<String>, Value) {
    let shown = scratch.ok(["show"]);
    let details = shown["snapshot"]["source_details"]["store"].clone();
    let codes = details["findings"].as_array().unwrap().iter();
    (codes.map(|found| found["code"].as_str().unwrap()["store_".len()..].to_owned()).collect(), details)
}

#[test]
fn real_stores_of_each_version_are_good() {
    for (version, python) in chromas() {
        let scratch = Scratch::new();
        scratch.init();
        write_store(&python, &scratch.path("store"));
        let (code, document) = scratch.json(["backup", "--cold", "store", "--validate", "full"]);
        assert_eq!(code, 0, "{version}: {document:#}");
        let (warnings, details) = warnings_of(&scratch);
        // What deleting a collection leaves behind, and an upsert in the full-text index of 0.4.
        let usual = ["segment_dir_orphan", "embedding_orphan", "metadata_orphan", "fts_rows_mismatch"];
        let unusual: Vec<_> = warnings.iter().filter(|code| !usual.contains(&code.as_str())).collect();
        assert!(unusual.is_empty(), "{version}: {unusual:?}");
        let family = match version.split('.').next() {
            Some("0") if version.starts_with("0.4") => "chroma 0.4 (",
            Some("0") => "chroma 0.5 or 0.6 (",
            _ => "chroma 1.x (",
        };
        assert!(details["written_by"].as_str().unwrap().starts_with(family), "{version}: {details:#}");
        let collections = details["collections"].as_array().unwrap();
        let of = |name: &str| collections.iter().find(|found| found["name"] == name).unwrap();
        assert_eq!((&of("empty")["live_ids"], &of("empty")["queue_tail"]), (&0.into(), &0.into()));
        assert_eq!((&of("fresh")["live_ids"], &of("fresh")["labels"]), (&2.into(), &Value::Null));
        assert_eq!(of("fresh")["queue_tail"], 4);
        for name in ["euclid", "cosine", "inner"] {
            // 120 + 1 + 1 + 55 + 1 added, 10 and 2 deleted.
            assert_eq!(of(name)["live_ids"], 166, "{version}");
            assert!(of(name)["labels"].as_u64().unwrap() > 100);
        }
        // Told to people as well.
        let shown = run(scratch.icecore().arg("show"));
        let shown = String::from_utf8(shown.stdout).unwrap();
        assert!(shown.contains("  written by chroma "), "{shown}");
        assert!(shown.contains("4 waiting in the queue"), "{shown}");
    }
}

/// A store of chromadb 1.5.9, written once.
fn sample() -> Option<&'static Path> {
    static SAMPLE: OnceLock<Option<tempfile::TempDir>> = OnceLock::new();
    let made = SAMPLE.get_or_init(|| {
        let directory = tempfile::tempdir().unwrap();
        write_store(&python()?, &directory.path().join("store"));
        Some(directory)
    });
    made.as_ref().map(tempfile::TempDir::path)
}

/// A copy of the sample, to be damaged.
struct Store {
    scratch: Scratch,
    python: PathBuf,
}

/// Where things lie in the sample's index files (16 dimensions, M 16).
const ELEMENT: u64 = 132 + 64 + 8;
const FLAGS: u64 = 2;
const LINK: u64 = 4;
const VECTOR: u64 = 132;
const LABEL: u64 = 132 + 64;

impl Store {
    fn new(sample: &Path) -> Self {
        let scratch = Scratch::new();
        scratch.init();
        let target = scratch.path("store");
        run(Command::new("cp").arg("-a").arg(sample.join("store")).arg(&target));
        Self { scratch, python: python().unwrap() }
    }

    fn database(&self) -> Connection {
        let connection = Connection::open(self.scratch.path("store/chroma.sqlite3")).unwrap();
        connection.execute_batch("PRAGMA foreign_keys=OFF").unwrap();
        connection
    }

    fn sql(&self, text: &str) {
        let text =
            text.replace("$VECTOR", &self.segment("VECTOR")).replace("$METADATA", &self.segment("METADATA"));
        self.sql_as_is(&text);
    }

    fn sql_as_is(&self, text: &str) {
        self.database().execute_batch(text).unwrap();
    }

    /// A segment of the collection "euclid".
    fn segment(&self, scope: &str) -> String {
        let query = "SELECT s.id FROM segments s JOIN collections c ON c.id = s.collection
            WHERE c.name = 'euclid' AND s.scope = ?1";
        self.database().query_row(query, [scope], |row| row.get(0)).unwrap()
    }

    fn file(&self, name: &str) -> PathBuf {
        self.scratch.path("store").join(self.segment("VECTOR")).join(name)
    }

    fn patch(&self, name: &str, offset: u64, bytes: &[u8]) {
        let path = self.file(name);
        let mut content = std::fs::read(&path).unwrap();
        content[offset as usize..offset as usize + bytes.len()].copy_from_slice(bytes);
        put(&path, content);
        self.touch();
    }

    fn resize(&self, name: &str, change: i64) {
        let path = self.file(name);
        let mut content = std::fs::read(&path).unwrap();
        content.resize((content.len() as i64 + change) as usize, 0);
        put(&path, content);
        self.touch();
    }

    /// The pickle is the newest file, as after a persist.
    fn touch(&self) {
        let pickle = std::fs::File::options().write(true).open(self.file("index_metadata.pickle")).unwrap();
        pickle.set_modified(std::time::SystemTime::now()).unwrap();
    }

    fn pickle(&self, code: &str) {
        let path = self.file("index_metadata.pickle");
        run(Command::new(&self.python).args(["-c", EDIT_PICKLE]).arg(path).arg(code));
    }

    fn elements(&self) -> u64 {
        let header = std::fs::read(self.file("header.bin")).unwrap();
        u64::from_le_bytes(header[20..28].try_into().unwrap())
    }

    fn collection(&self) -> String {
        let query = "SELECT id FROM collections WHERE name = 'euclid'";
        self.database().query_row(query, [], |row| row.get(0)).unwrap()
    }

    /// The first element that is deleted, or that is not.
    fn element(&self, deleted: bool) -> u64 {
        let bytes = std::fs::read(self.file("data_level0.bin")).unwrap();
        let flags = |element: u64| bytes[(element * ELEMENT + FLAGS) as usize];
        (0..self.elements()).find(|element| flags(*element) == u8::from(deleted)).unwrap()
    }

    /// Marks a live element as deleted.
    fn delete_element(&self) {
        self.patch("data_level0.bin", self.element(false) * ELEMENT + FLAGS, &[1]);
    }

    /// The first element that is on level 0 only.
    fn ground_element(&self) -> u32 {
        let bytes = std::fs::read(self.file("link_lists.bin")).unwrap();
        let (mut at, mut element) = (0, 0);
        loop {
            match u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) {
                0 => return element,
                length => at += 4 + length as usize,
            }
            element += 1;
        }
    }

    /// The first element whose lists reach above level 0, as the offset of its lists.
    fn upper_list(&self) -> u64 {
        let bytes = std::fs::read(self.file("link_lists.bin")).unwrap();
        let mut at = 0;
        while bytes[at..at + 4] == [0; 4] {
            at += 4;
        }
        at as u64 + 4
    }

    /// Backs up: codes of errors (exit 20) or of warnings (exit 0).
    fn judged(&self) -> (i32, BTreeSet<String>, Value) {
        let (code, document) = self.scratch.json(["backup", "--cold", "store", "--validate", "full"]);
        let codes = match code {
            0 => warnings_of(&self.scratch).0,
            _ => {
                let codes = document["errors"].as_array().unwrap().iter();
                codes.map(|code| code.as_str().unwrap()["store_".len()..].to_owned()).collect()
            }
        };
        (code, codes, document)
    }
}

type Damage = fn(&Store);

/// Each damage must be found under its code, with the exit code given.
fn expect(cases: &[(i32, &str, Damage)]) {
    let Some(sample) = sample() else { return };
    let mut wrong = Vec::new();
    for (number, (exit, fact, damage)) in cases.iter().enumerate() {
        let store = Store::new(sample);
        damage(&store);
        let (code, codes, document) = store.judged();
        if code != *exit || !codes.contains(*fact) {
            wrong.push(format!(
                "case {number}: {fact} with {exit} expected, {code} {codes:?} found: {document:#}"
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn damage_to_header_and_lengths_is_told() {
    expect(&[
        (20, "hnsw_header_size", |store| store.resize("header.bin", -1)),
        (20, "hnsw_header_version", |store| store.patch("header.bin", 0, &[2])),
        (20, "hnsw_header_invalid", |store| store.patch("header.bin", 4, &[1])),
        (20, "hnsw_header_invalid", |store| store.patch("header.bin", 28, &[1])),
        (20, "hnsw_header_invalid", |store| store.patch("header.bin", 36, &[1])),
        (20, "hnsw_header_invalid", |store| store.patch("header.bin", 12, &[1, 0])),
        (20, "hnsw_header_invalid", |store| store.patch("header.bin", 56, &[0xff, 0xff])),
        (20, "hnsw_header_invalid", |store| store.patch("header.bin", 28, &[0xff; 24])),
        (20, "hnsw_data_short", |store| {
            let file = std::fs::File::options().write(true).open(store.file("data_level0.bin")).unwrap();
            file.set_len(ELEMENT * store.elements() - 1).unwrap();
            store.touch();
        }),
        (20, "hnsw_length_short", |store| {
            let file = std::fs::File::options().write(true).open(store.file("length.bin")).unwrap();
            file.set_len(4 * store.elements() - 1).unwrap();
            store.touch();
        }),
        (20, "hnsw_file_missing", |store| std::fs::remove_file(store.file("link_lists.bin")).unwrap()),
        (20, "hnsw_file_missing", |store| std::fs::remove_file(store.file("index_metadata.pickle")).unwrap()),
        (20, "segment_dir_missing", |store| std::fs::remove_dir_all(store.file("")).unwrap()),
        // Never persisted by its row, but the queue was purged.
        (20, "segment_dir_missing", |store| {
            std::fs::remove_dir_all(store.file("")).unwrap();
            store.sql("DELETE FROM max_seq_id WHERE segment_id = '$VECTOR'");
        }),
        (0, "persist_incomplete", |store| {
            let newest = std::fs::File::options().write(true).open(store.file("length.bin")).unwrap();
            newest.set_modified(std::time::SystemTime::now()).unwrap();
        }),
        (0, "segment_dir_orphan", |_| ()),
    ]);
}

#[test]
fn damage_to_the_pickle_is_told() {
    expect(&[
        (20, "hnsw_metadata_unreadable", |store| store.resize("index_metadata.pickle", -1)),
        (20, "hnsw_metadata_unreadable", |store| store.resize("index_metadata.pickle", 1)),
        (20, "hnsw_metadata_unreadable", |store| {
            put(&store.file("index_metadata.pickle"), b"\x80\x03cos\nsystem\nX\x02\x00\x00\x00id\x85R.");
        }),
        (20, "hnsw_metadata_unreadable", |store| store.pickle("del d['label_to_id']")),
        (20, "hnsw_metadata_unreadable", |store| store.pickle("d['id_to_label']['id-5'] = 'x'")),
        (20, "hnsw_metadata_inconsistent", |store| {
            store.pickle("d['label_to_id'][d['id_to_label']['id-5']] = 'x'")
        }),
        (20, "hnsw_metadata_inconsistent", |store| {
            store.pickle("a = d['id_to_label']; a['id-5'], a['id-6'] = a['id-6'], a['id-5']");
        }),
        (20, "hnsw_dimension_mismatch", |store| store.pickle("d['dimensionality'] = 17")),
        (20, "hnsw_dimension_mismatch", |store| {
            store.sql("UPDATE collections SET dimension = 17 WHERE name = 'euclid'");
        }),
        (20, "hnsw_total_mismatch", |store| store.pickle("d['total_elements_added'] -= 1")),
        (0, "hnsw_total_mismatch", |store| store.pickle("d['total_elements_added'] += 1")),
        (20, "hnsw_seq_ahead", |store| store.pickle("d['id_to_seq_id'] = {'id-5': 10**9}")),
        (20, "hnsw_label_missing", |store| {
            store.pickle(
                "d['id_to_label']['x'] = 9; d['label_to_id'][999] = 'x'; d['id_to_label']['x'] = 999",
            );
        }),
        (20, "hnsw_label_extra", |store| {
            store.pickle("del d['label_to_id'][d['id_to_label'].pop('id-5')]");
        }),
        (20, "vector_missing", |store| store.pickle("del d['label_to_id'][d['id_to_label'].pop('id-5')]")),
        (20, "vector_extra", |store| {
            store.pickle(
                "n = d['id_to_label'].pop('id-5'); d['id_to_label']['x'] = n; d['label_to_id'][n] = 'x'",
            );
        }),
    ]);
}

#[test]
fn damage_to_elements_and_links_is_told() {
    expect(&[
        (20, "hnsw_links_invalid", |store| store.patch("data_level0.bin", ELEMENT, &33u16.to_le_bytes())),
        (20, "hnsw_links_invalid", |store| {
            store.patch("data_level0.bin", ELEMENT + LINK, &(store.elements() as u32).to_le_bytes());
        }),
        (20, "hnsw_links_invalid", |store| {
            store.patch("link_lists.bin", store.upper_list(), &17u16.to_le_bytes());
        }),
        // To an element that is not on that level, and to one that isn't there.
        (20, "hnsw_links_invalid", |store| {
            let ground = store.ground_element();
            store.patch("link_lists.bin", store.upper_list(), &[1, 0, 0, 0]);
            store.patch("link_lists.bin", store.upper_list() + 4, &ground.to_le_bytes());
        }),
        (20, "hnsw_links_invalid", |store| {
            store.patch("link_lists.bin", store.upper_list(), &[1, 0, 0, 0]);
            store.patch("link_lists.bin", store.upper_list() + 4, &(store.elements() as u32).to_le_bytes());
        }),
        (20, "hnsw_link_lists_invalid", |store| store.patch("link_lists.bin", 0, &[7])),
        (20, "hnsw_link_lists_invalid", |store| store.resize("link_lists.bin", -1)),
        (0, "hnsw_link_lists_trailing", |store| store.resize("link_lists.bin", 3)),
        (20, "hnsw_entry_invalid", |store| store.patch("header.bin", 52, &9i32.to_le_bytes())),
        (20, "hnsw_entry_invalid", |store| {
            let ground = store.ground_element();
            store.patch("header.bin", 56, &ground.to_le_bytes());
        }),
        (20, "hnsw_labels_duplicate", |store| {
            let bytes = std::fs::read(store.file("data_level0.bin")).unwrap();
            let label = bytes[LABEL as usize..][..8].to_owned();
            store.patch("data_level0.bin", ELEMENT + LABEL, &label);
        }),
        (20, "hnsw_label_missing", |store| store.delete_element()),
        (20, "hnsw_label_extra", |store| {
            store.patch("data_level0.bin", store.element(true) * ELEMENT + FLAGS, &[0]);
        }),
        (20, "hnsw_total_mismatch", |store| {
            store.patch("data_level0.bin", LABEL, &u64::MAX.to_le_bytes());
        }),
        (20, "hnsw_vector_not_finite", |store| {
            store.patch("data_level0.bin", VECTOR, &f32::NAN.to_le_bytes());
        }),
        (20, "hnsw_vector_not_finite", |store| {
            store.patch("data_level0.bin", VECTOR + 60, &f32::NEG_INFINITY.to_le_bytes());
        }),
        (0, "hnsw_vector_zero", |store| {
            store.patch("data_level0.bin", store.element(true) * ELEMENT + VECTOR, &[0; 64])
        }),
    ]);
}

#[test]
fn a_vector_that_is_not_normalised_is_worth_a_word() {
    expect(&[
        (0, "hnsw_vector_norm", |store| {
            store.sql(
                "UPDATE collections SET name = 'other' WHERE name = 'euclid';
                 UPDATE collections SET name = 'euclid' WHERE name = 'cosine'",
            );
            store.patch("length.bin", 0, &f32::NAN.to_le_bytes());
        }),
        (0, "hnsw_vector_norm", |store| {
            store.sql("UPDATE collections SET schema_str = replace(schema_str, '\"l2\"', '\"cosine\"')");
        }),
    ]);
}

#[test]
fn damage_to_the_queue_is_told() {
    expect(&[
        (20, "seq_ahead_of_log", |store| {
            store.sql("UPDATE max_seq_id SET seq_id = 100000 WHERE segment_id = '$VECTOR'");
        }),
        (20, "vector_missing", |store| {
            // The tail is lost that holds an id's vector.
            store.sql("DELETE FROM embeddings_queue WHERE id = 'tail'");
        }),
        (20, "vector_missing", |store| {
            // As if the index were older than it is said to be.
            store.sql("INSERT INTO embeddings(segment_id, embedding_id, seq_id) VALUES('$METADATA', 'x', 1)");
        }),
        (20, "vector_extra", |store| {
            store.sql("DELETE FROM embeddings WHERE segment_id = '$METADATA' AND embedding_id = 'id-5'");
        }),
        (20, "vector_extra", |store| {
            // The delete that the metadata knows has gone from the queue.
            store.sql("DELETE FROM embeddings_queue WHERE id = 'more-1' AND operation = 3");
        }),
        (20, "queue_encoding_invalid", |store| {
            store.sql("UPDATE embeddings_queue SET operation = 4 WHERE id = 'tail'");
        }),
        (20, "queue_encoding_invalid", |store| {
            store.sql("UPDATE embeddings_queue SET vector = x'00000000' WHERE id = 'tail'");
        }),
        (20, "queue_encoding_invalid", |store| {
            store.sql("UPDATE embeddings_queue SET encoding = 'FLOAT16' WHERE id = 'tail'");
        }),
        (0, "queue_encoding_invalid", |store| {
            store.sql("INSERT INTO embeddings_queue(operation, topic, id) VALUES(3, 'persistent://default/default/x', 'y')");
        }),
    ]);
}

/// Puts a record below what the index has applied, as an older Chroma that never purges leaves it, and changes the
/// vector in the index.
#[test]
fn a_vector_other_than_the_queue_says_is_told() {
    expect(&[(20, "vector_mismatch", |store| change_vector_of_a_record(store, "euclid"))]);
    expect(&[(20, "vector_mismatch", |store| change_vector_of_a_record(store, "cosine"))]);
}

fn change_vector_of_a_record(store: &Store, name: &str) {
    if name != "euclid" {
        store.sql(&format!(
            "UPDATE collections SET name = 'other' WHERE name = 'euclid';
             UPDATE collections SET name = 'euclid' WHERE name = '{name}'"
        ));
    }
    // What is left of the applied records is the last one.
    let query =
        "SELECT q.id FROM embeddings_queue q, max_seq_id m WHERE m.segment_id = ?1 AND q.seq_id = m.seq_id";
    let id: String = store.database().query_row(query, [store.segment("VECTOR")], |row| row.get(0)).unwrap();
    let path = store.file("index_metadata.pickle");
    let script =
        "import pickle, sys; print(pickle.load(open(sys.argv[1], 'rb'))['id_to_label'][sys.argv[2]])";
    let printed = run(Command::new(&store.python).args(["-c", script]).arg(path).arg(&id)).stdout;
    let label: u64 = String::from_utf8(printed).unwrap().trim().parse().unwrap();
    let bytes = std::fs::read(store.file("data_level0.bin")).unwrap();
    let place = |element: u64| bytes[(element * ELEMENT + LABEL) as usize..][..8] == label.to_le_bytes();
    let element = (0..store.elements()).find(|element| place(*element)).unwrap();
    let at = element * ELEMENT + VECTOR;
    let value = f32::from_le_bytes(bytes[at as usize..][..4].try_into().unwrap());
    store.patch("data_level0.bin", at, &(value + 1e-3).to_le_bytes());
}

#[test]
fn damage_to_the_database_is_told() {
    expect(&[
        (20, "db_not_sqlite", |store| {
            store.scratch.file("store/chroma.sqlite3", "nothing");
        }),
        (20, "db_size_mismatch", |store| {
            let file = std::fs::File::options()
                .write(true)
                .open(store.scratch.path("store/chroma.sqlite3"))
                .unwrap();
            file.set_len(file.metadata().unwrap().len() - 4096).unwrap();
        }),
        (20, "db_corrupt", |store| {
            let query = "SELECT rootpage FROM sqlite_master WHERE name = 'sqlite_autoindex_embeddings_1'";
            let page: i64 = store.database().query_row(query, [], |row| row.get(0)).unwrap();
            let path = store.scratch.path("store/chroma.sqlite3");
            let mut bytes = std::fs::read(&path).unwrap();
            bytes[page as usize * 4096 - 64..][..64].fill(0x5a);
            put(&path, bytes);
        }),
        (20, "fts_corrupt", |store| {
            store.sql("DELETE FROM embedding_fulltext_search_content WHERE id IN (SELECT min(id) FROM embedding_fulltext_search_content)");
        }),
        (0, "fts_rows_mismatch", |store| {
            store.sql("INSERT INTO embedding_metadata(id, key, string_value) SELECT max(id), 'chroma:document', 'x' FROM embeddings");
        }),
        (0, "schema_unknown", |store| {
            store.sql("INSERT INTO migrations VALUES('sysdb', 11, 'x', 'x', 'x')");
        }),
        (0, "schema_unknown", |store| {
            store.sql("UPDATE migrations SET hash = 'x' WHERE dir = 'metadb' AND version = 2")
        }),
        (0, "schema_unknown", |store| store.sql("ALTER TABLE max_seq_id RENAME TO elsewhere")),
        (0, "schema_unknown", |store| {
            store.sql("ALTER TABLE embeddings_queue RENAME COLUMN topic TO subject")
        }),
        // What can be checked is checked.
        (20, "hnsw_label_missing", |store| {
            store.delete_element();
            store.sql_as_is("ALTER TABLE collections RENAME TO elsewhere");
        }),
        (20, "segment_missing", |store| store.sql("DELETE FROM segments WHERE id = '$METADATA'")),
        (0, "segment_missing", |store| {
            store.sql("INSERT INTO collections(id, name, database_id) SELECT 'new', 'being made', database_id FROM collections LIMIT 1")
        }),
        (20, "segment_missing", |store| {
            let collection = store.collection();
            store.sql(&format!("INSERT INTO segments SELECT 'x', type, scope, '{collection}' FROM segments WHERE id = '$VECTOR'"));
        }),
        (0, "segment_type_unknown", |store| {
            store.sql("UPDATE segments SET type = 'urn:chroma:segment/vector/new' WHERE id = '$VECTOR'");
        }),
        (0, "metadata_orphan", |store| {
            store.sql("INSERT INTO embedding_metadata(id, key, int_value) VALUES(1000000, 'n', 1)");
        }),
        (0, "embedding_orphan", |store| {
            store.sql("INSERT INTO embeddings(segment_id, embedding_id, seq_id) VALUES('x', 'y', 1)");
        }),
    ]);
}

/// A directory as it lies, without a repository: what our own captures never hold.
struct Foreign {
    place: PathBuf,
    root: Entry,
}

impl Foreign {
    fn entry(path: &Path) -> Entry {
        let metadata = path.symlink_metadata().unwrap();
        let kind = if metadata.is_dir() { EntryKind::Directory } else { EntryKind::File };
        Entry {
            mode: 0o644,
            mtime_ns: metadata.mtime() * 1_000_000_000 + metadata.mtime_nsec(),
            size: if metadata.is_dir() { 0 } else { metadata.size() },
            ..Entry::bare(path.file_name().unwrap().as_bytes().to_vec(), kind)
        }
    }

    fn judge(place: &Path, level: Level) -> BTreeSet<String> {
        let foreign = Self { place: place.to_owned(), root: Self::entry(place) };
        let temporary_directory = &std::env::temp_dir();
        let stop = &Stop::default();
        let full_texts = FullTexts::new(stop.clone());
        let options = JudgeOptions { level, full_texts: Some(&full_texts), temporary_directory, stop };
        let judged = icecore::source::judge(SourceKind::Chroma, "store", &foreign, &options).unwrap();
        let about_texts = full_texts.wait().unwrap();
        let findings = judged.findings.into_iter().chain(about_texts);
        findings.map(|found| found.code["store_".len()..].to_owned()).collect()
    }
}

impl StoredFiles for Foreign {
    fn root(&self) -> &Entry {
        &self.root
    }

    fn list(&self, directory: &Entry) -> std::io::Result<Vec<Entry>> {
        let below = if directory == &self.root {
            Path::new("")
        } else {
            Path::new(OsStr::from_bytes(&directory.name))
        };
        let paths = std::fs::read_dir(self.place.join(below))?.map(|entry| entry.unwrap().path());
        Ok(paths.map(|path| Self::entry(&path)).collect())
    }

    fn open(&self, path: &[u8]) -> std::io::Result<Box<dyn ReadAt + '_>> {
        Ok(Box::new(InMemory(std::fs::read(self.place.join(OsStr::from_bytes(path)))?)))
    }
}

struct InMemory(Vec<u8>);

impl ReadAt for InMemory {
    fn size(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<()> {
        let from = self.0.get(offset as usize..).and_then(|rest| rest.get(..buffer.len()));
        buffer.copy_from_slice(from.ok_or(std::io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn on_disk(&self) -> Option<&std::path::Path> {
        None
    }
}

#[test]
fn copies_that_we_did_not_make_are_judged_too() {
    let Some(sample) = sample() else { return };
    let store = Store::new(sample);
    let place = store.scratch.path("store");
    let orphan = BTreeSet::from(["segment_dir_orphan".to_owned()]);
    assert_eq!(Foreign::judge(&place, Level::Full), orphan);
    assert!(Foreign::judge(&place, Level::Quick).is_empty());
    // What costs arithmetic only is found by a quick look.
    store.patch("header.bin", 28, &[1]);
    assert!(Foreign::judge(&place, Level::Quick).contains("hnsw_header_invalid"));
    put(&place.join("chroma.sqlite3-journal"), "hot");
    assert!(Foreign::judge(&place, Level::Quick).contains("db_sidecar_present"));
    std::fs::remove_file(place.join("chroma.sqlite3")).unwrap();
    assert_eq!(Foreign::judge(&place, Level::Full), BTreeSet::from(["db_missing".to_owned()]));
}

#[test]
fn legal_states_are_good() {
    let Some(sample) = sample() else { return };
    let cases: [(&str, Damage); 4] = [
        ("as written", |_| ()),
        // A crash between the persist and the note of it: the index is newer than it is said to be.
        ("index ahead", |store| {
            store.sql("UPDATE max_seq_id SET seq_id = seq_id - 1 WHERE segment_id = '$VECTOR'");
        }),
        // Torn files before the first persist.
        ("fresh", |store| {
            let query = "SELECT s.id FROM segments s JOIN collections c ON c.id = s.collection
                WHERE c.name = 'fresh' AND s.scope = 'VECTOR'";
            let segment: String = store.database().query_row(query, [], |row| row.get(0)).unwrap();
            put(&store.scratch.path("store").join(segment).join("header.bin"), "torn");
        }),
        // 0.4 and 0.5 write numbers as bytes.
        ("blob numbers", |store| {
            let connection = store.database();
            let query = "SELECT segment_id, seq_id FROM max_seq_id";
            let mut statement = connection.prepare(query).unwrap();
            let rows = statement.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?)));
            let rows: Vec<_> = rows.unwrap().map(Result::unwrap).collect();
            connection
                .execute_batch(
                    "ALTER TABLE max_seq_id RENAME TO old; CREATE TABLE max_seq_id(segment_id TEXT PRIMARY KEY, seq_id BLOB)",
                )
                .unwrap();
            for (segment, seq) in rows {
                let bytes = (seq as u64).to_be_bytes().to_vec();
                connection
                    .execute("INSERT INTO max_seq_id VALUES(?1, ?2)", rusqlite::params![segment, bytes])
                    .unwrap();
            }
        }),
    ];
    for (what, change) in cases {
        let store = Store::new(sample);
        change(&store);
        let (code, codes, document) = store.judged();
        assert_eq!(code, 0, "{what}: {document:#}");
        assert_eq!(codes, BTreeSet::from(["segment_dir_orphan".to_owned()]), "{what}");
    }
}

#[test]
fn versions_to_test_against_are_there() {
    for version in ["0.5.23", "0.4.24"] {
        if !chromas().iter().any(|(found, _)| found == version) && std::env::var_os("CI").is_none() {
            missing(&format!("chromadb {version} is not installed"));
        }
    }
}
