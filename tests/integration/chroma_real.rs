//! Real Chroma from PyPI: what it wrote, closed, backed up and restored, it opens again with everything in place.

use crate::support::{Scratch, python, run};
use std::path::Path;
use std::process::Command;

/// `work STORE ROUND` writes; `dump STORE` prints everything that Chroma answers, as JSON.
const SCRIPT: &str = r#"
import json, random, sys
import chromadb
from chromadb.config import Settings

def vector(seed):
    r = random.Random(repr(seed)); v = [r.gauss(0, 1) for _ in range(32)]; n = sum(x * x for x in v) ** .5
    return [x / n for x in v]

verb, store = sys.argv[1], sys.argv[2]
client = chromadb.PersistentClient(store, Settings(anonymized_telemetry=False))
SPACES = {"euclid": "l2", "cosine": "cosine", "inner": "ip"}
if verb == "work":
    turn = int(sys.argv[3])
    for name, space in SPACES.items():
        c = client.get_or_create_collection(name, metadata={"hnsw:space": space, "hnsw:sync_threshold": 100, "hnsw:batch_size": 50}, embedding_function=None)
        ids = [f"{turn}-{i}" for i in range(230)]
        c.add(ids=ids, embeddings=[vector((name, i)) for i in ids], documents=[f"document {i} about {name}" for i in ids], metadatas=[{"n": n, "turn": turn} for n, _ in enumerate(ids)])
        c.upsert(ids=ids[:20] + [f"{turn}-new"], embeddings=[vector((name, "up", turn, i)) for i in range(21)], documents=["upserted"] * 21)
        c.update(ids=ids[20:40], metadatas=[{"updated": True}] * 20, embeddings=[vector((name, "new", turn, i)) for i in range(20)])
        c.delete(ids=ids[40:60])
    gone = client.get_or_create_collection(f"gone-{turn}", embedding_function=None)
    gone.add(ids=["x"] , embeddings=[vector("x")]); client.delete_collection(f"gone-{turn}")
else:
    out = {}
    for name in SPACES:
        c = client.get_collection(name, embedding_function=None)
        got = c.get(include=["embeddings", "documents", "metadatas"])
        rows = sorted((i, d, m, [round(float(x), 6) for x in e]) for i, d, m, e in zip(got["ids"], got["documents"], got["metadatas"], got["embeddings"]))
        queries = []
        for i in got["ids"][::7]:
            e = c.get(ids=[i], include=["embeddings"])["embeddings"][0]
            q = c.query(query_embeddings=[e], n_results=3)
            queries.append((i, q["ids"][0][0], q["documents"][0][0]))
        out[name] = {"count": c.count(), "rows": rows, "queries": sorted(queries), "search": sorted(c.get(where_document={"$contains": "upserted"})["ids"])}
    if len(sys.argv) > 3:
        for name in SPACES:
            client.get_collection(name, embedding_function=None).add(ids=["after restore"], embeddings=[vector("after")])
    print(json.dumps(out, sort_keys=True))
"#;

fn chroma(python: &Path, arguments: &[&str]) -> String {
    let output =
        run(Command::new(python).args(["-c", SCRIPT]).args(arguments).env("ANONYMIZED_TELEMETRY", "False"));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn ids_documents_embeddings_and_queries_are_the_same() {
    let Some(python) = python() else { return };
    let scratch = Scratch::new();
    scratch.init();
    let store = scratch.path("store");
    let store = store.to_str().unwrap();
    let mut snapshots = Vec::new();
    for turn in ["1", "2"] {
        chroma(&python, &["work", store, turn]);
        let document = scratch.ok(["backup", "store", "--validate", "full"]);
        assert_eq!(document["sources"]["store"]["consistency"], "locked");
        // Looking writes (the queue is purged), so it comes after the backup.
        snapshots.push((document["stamp"].as_str().unwrap().to_owned(), chroma(&python, &["dump", store])));
    }
    assert_ne!(snapshots[0].1, snapshots[1].1);
    for (stamp, expected) in &snapshots {
        let document = scratch.ok(["restore", stamp, "-t", &format!("out-{stamp}")]);
        assert_eq!(document["restored_integrity_ok"], true);
        let restored = scratch.path(&format!("out-{stamp}/store"));
        let found = chroma(&python, &["dump", restored.to_str().unwrap(), "and write"]);
        assert!(&found == expected, "{stamp}: Chroma sees something else");
        let parsed: serde_json::Value = serde_json::from_str(&found).unwrap();
        for name in ["euclid", "cosine", "inner"] {
            let queries = parsed[name]["queries"].as_array().unwrap();
            assert!(queries.len() > 25);
            if name != "inner" {
                assert!(
                    queries.iter().all(|query| query[0] == query[1]),
                    "{name}: an id isn't found by its own vector"
                );
            }
        }
        // It accepted writes: counts are one higher now.
        let after: serde_json::Value =
            serde_json::from_str(&chroma(&python, &["dump", restored.to_str().unwrap()])).unwrap();
        assert_eq!(
            after["euclid"]["count"].as_u64(),
            parsed["euclid"]["count"].as_u64().map(|count| count + 1)
        );
    }
    // In place, over the second state.
    let (first, expected) = &snapshots[0];
    scratch.ok(["restore", first, "--confirm-service-stopped"]);
    assert!(&chroma(&python, &["dump", store]) == expected);
    let shown = scratch.ok(["show", &snapshots[1].0]);
    let notes = shown["snapshot"]["source_details"]["store"]["notes"].to_string();
    assert!(notes.contains("no collection"), "the deleted collections' directories are left out: {notes}");
}
