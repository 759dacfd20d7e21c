//! Which Chroma wrote the database, and whether it is one that these checks know.

use super::trouble::Outcome;
use crate::source::chroma::layout::DATABASE;
use crate::source::interface::Judgement;
use rusqlite::Connection;

/// The newest migration of each directory in chromadb 1.5.9, and the hashes of all of them up to it (MD5 of their text,
/// from its `migrations` table; 0.4.24 and 0.5.23 have the same for those that they know).
const KNOWN: [(&str, &[&str]); 3] = [
    (
        "sysdb",
        &[
            "38352d725ad1c16074fac420b22b4633",
            "2913cb6a503055a95f625448037e8912",
            "42d22d0574d31d419c2a0e7f625c93aa",
            "048867ce8fcdefe4023c7110e4433591",
            "b1367c826b8fba5f96f27befdc1d42d2",
            "4eea7468935bf25d4604a0fed2366116",
            "1c7e63bba346a42a18b6ab7f1c989bed",
            "0a0e7e93111a01789addf64961c6127c",
            "054355aef9e63702bf54ea29e61563f1",
            "5c3a5ac4b79df76799b4721827ed5e1d",
        ],
    ),
    (
        "metadb",
        &[
            "2b4cf52c4bb2676e21d6860a4409f856",
            "12a570f7121b3a8ce750a2a7c36da20f",
            "f97ad6334aeaa8f419f01110b648b97a",
            "fb36603a45ee2cd0254cef3ef86585e8",
            "0e9de46758761b373ce682925edcc326",
            "e026f01ea92c1baa1493f4ad5ca7cfe7",
        ],
    ),
    ("embeddings_queue", &["d3755dfd232be8e8301f4d7fcfb3a486", "8fbfe4ffb3e57f1d8bfdc58510a82e85"]),
];

/// Compares the `migrations` table with those known, warns of others, and guesses the version of Chroma that wrote the
/// store last.
pub fn judge_schema(judgement: &mut Judgement, source: &str, connection: &Connection) -> Outcome<()> {
    let mut statement =
        connection.prepare("SELECT dir, version, hash FROM store.migrations ORDER BY dir, version")?;
    let mut rows = statement.query([])?;
    let mut newest = [0i64; KNOWN.len()];
    let mut unknown = Vec::new();
    while let Some(row) = rows.next()? {
        let (directory, version, hash) =
            (row.get::<_, String>(0)?, row.get::<_, i64>(1)?, row.get::<_, String>(2)?);
        let known = KNOWN.iter().zip(&mut newest).find(|((name, _), _)| *name == directory);
        let Some(((_, hashes), newest)) = known else {
            unknown.push(format!("{directory} {version}"));
            continue;
        };
        *newest = version.max(*newest);
        let expected = usize::try_from(version).ok().and_then(|version| version.checked_sub(1));
        match expected.and_then(|at| hashes.get(at)) {
            None => unknown.push(format!("{directory} {version}")),
            Some(expected) if **expected != hash => {
                unknown.push(format!("{directory} {version} with another text"));
            }
            Some(_) => {}
        }
    }
    let [sysdb, metadb, queue] = newest;
    let version = match (unknown.is_empty(), metadb, sysdb) {
        (false, ..) => "newer than 1.5.9, or unknown",
        (true, 5.., _) => "1.x",
        (true, _, 5..) => "0.5 or 0.6",
        (true, 1.., _) => "0.4",
        _ => "unknown",
    };
    judgement.written_by =
        Some(format!("chroma {version} (sysdb {sysdb}, metadb {metadb}, embeddings_queue {queue})"));
    if !unknown.is_empty() {
        unknown.truncate(5);
        let detail = format!("migrations that chromadb 1.5.9 doesn't have: {}", unknown.join(", "));
        judgement.warning(source, "schema_unknown", DATABASE.as_bytes(), detail);
    }
    Ok(())
}
