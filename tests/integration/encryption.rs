//! Encrypted repositories: nothing readable lies in them, only their keys open them, and whatever is changed or moved is noticed.

use crate::support::{Scratch, document, files_below, noise, put, run};
use std::path::Path;
use std::process::Command;

/// Words that can be found again, were they stored as they are: noise around them keeps them from being compressed.
const MARKER: &[u8] = b"a-secret-that-nobody-may-find";

fn content(seed: u64) -> Vec<u8> {
    let mut bytes = noise(400_000, seed);
    for at in (0..bytes.len() - MARKER.len()).step_by(20_000) {
        bytes[at..at + MARKER.len()].copy_from_slice(MARKER);
    }
    bytes
}

fn holds(directory: &Path, wanted: &[u8]) -> bool {
    let has = |path: &std::path::PathBuf| {
        std::fs::read(path).unwrap().windows(wanted.len()).any(|window| window == wanted)
    };
    files_below(directory).iter().any(has)
}

fn database(path: &Path, from: u32) {
    let connection = rusqlite::Connection::open(path).unwrap();
    connection
        .execute_batch(&format!(
            "CREATE TABLE IF NOT EXISTS t(a, b); WITH RECURSIVE n(i) AS (SELECT {from} UNION ALL SELECT i+1 FROM n WHERE i<{from}+3000) \
             INSERT INTO t SELECT i, 'a-secret-that-nobody-may-find ' || i FROM n"
        ))
        .unwrap();
}

fn encrypted() -> Scratch {
    let scratch = Scratch::new();
    scratch.init_encrypted();
    scratch.file("tree/file-with-a-name", content(1));
    database(&scratch.path("app.db"), 1);
    scratch
}

fn code_of(scratch: &Scratch, identity: Option<&str>, arguments: &[&str]) -> (i32, serde_json::Value) {
    let mut command = scratch.icecore();
    command.env_remove("ICECORE_IDENTITY");
    if let Some(identity) = identity {
        command.env("ICECORE_IDENTITY", scratch.path(identity));
    }
    document(command.arg("--json").args(arguments))
}

#[test]
fn a_whole_life_leaves_nothing_readable() {
    let scratch = encrypted();
    let sources = ["tree", "db=app.db"];
    let first = scratch.backup(&sources);
    for round in 2..5 {
        let mut bytes = content(1);
        bytes[200_000] = round;
        scratch.file("tree/file-with-a-name", &bytes);
        database(&scratch.path("app.db"), u32::from(round) * 10_000);
        scratch.backup(&sources);
    }
    let stored = scratch.ok(["backup", "tree", "--json"]);
    assert!(stored["stored_bytes"].as_u64().unwrap() < 1000, "nothing changed: {stored:#}");
    scratch.ok(["validate", "--all"]);
    scratch.ok(["check", "--read-data"]);
    scratch.ok(["restore", &first, "--target", "out"]);
    assert_eq!(std::fs::read(scratch.path("out/tree/file-with-a-name")).unwrap(), content(1));
    // In place, with what was there before kept beside the journal, and back.
    let before = std::fs::read(scratch.path("tree/file-with-a-name")).unwrap();
    let place = ["--confirm-service-stopped", "--map", "tree=tree"];
    scratch.ok(["restore", &first, "tree", "--no-pre-snapshot"].iter().chain(&place));
    assert_eq!(std::fs::read(scratch.path("tree/file-with-a-name")).unwrap(), content(1));
    assert!(!scratch.repository_files("restores").is_empty());
    for secret in [MARKER, b"file-with-a-name".as_slice(), b"SQLite format 3", b"CREATE TABLE"] {
        for place in ["packs", "index", "manifests", "proofs", "keys"] {
            assert!(!holds(&scratch.path("repo").join(place), secret), "{secret:?} in {place}");
        }
    }
    let undo = files_below(&scratch.path("repo/restores"));
    let undo: Vec<_> = undo.iter().filter(|path| path.to_string_lossy().contains("/undo/")).collect();
    assert!(undo.iter().any(|path| path.to_string_lossy().contains("/packs/")));
    for path in &undo {
        let bytes = std::fs::read(path).unwrap();
        assert!(!bytes.windows(MARKER.len()).any(|window| window == MARKER), "{path:?}");
    }
    // Without its key an undo is of no use either.
    let (code, _) = code_of(&scratch, None, &["restore", "--rollback", "--confirm-service-stopped"]);
    assert_eq!(code, 12);
    scratch.ok(["restore", "--rollback", "--confirm-service-stopped"]);
    assert_eq!(std::fs::read(scratch.path("tree/file-with-a-name")).unwrap(), before);
    scratch.ok(["prune", "--keep-last", "1", "--now"]);
    scratch.ok(["repair"]);
    scratch.ok(["check", "--read-data"]);
    scratch.ok(["validate", "--all"]);
}

#[test]
fn equal_contents_of_two_repositories_have_nothing_in_common() {
    let [one, two] = [encrypted(), encrypted()];
    // Cuts fall elsewhere: how long the packs of each backup are tells how many chunks they hold. In one of six backups that is the
    // same by chance, in all of them in one of 200,000 runs.
    let mut lengths = [Vec::new(), Vec::new()];
    for round in 0..7 {
        for (scratch, lengths) in [&one, &two].into_iter().zip(&mut lengths) {
            scratch.file("tree/file-with-a-name", content(round));
            scratch.backup(&["tree"]);
            let packs = scratch.repository_files("packs");
            lengths.push(packs.iter().map(|path| path.metadata().unwrap().len()).sum::<u64>());
        }
    }
    let [one_lengths, two_lengths] = &lengths;
    assert_ne!(one_lengths, two_lengths);
    let names = |scratch: &Scratch| -> Vec<_> {
        let packs = scratch.repository_files("packs");
        packs.iter().map(|path| path.file_name().unwrap().to_owned()).collect()
    };
    assert!(names(&one).iter().all(|name| !names(&two).contains(name)));
}

#[test]
fn only_its_keys_open_it_and_the_error_says_so() {
    let scratch = encrypted();
    let stamp = scratch.backup(&["tree"]);
    let other = scratch.new_identity("other");
    let refused = |identity: Option<&str>, wanted: &str| {
        for verb in
            [vec!["list"], vec!["backup", "tree"], vec!["restore", &stamp, "--target", "x"], vec!["check"]]
        {
            let (code, document) = code_of(&scratch, identity, &verb);
            assert_eq!(code, 12, "{document:#}");
            assert_eq!(document["error"]["code"], "wrong_key");
            let message = document["error"]["message"].as_str().unwrap();
            assert!(message.contains(wanted), "{message}");
        }
        assert!(!scratch.path("x").exists());
    };
    refused(None, "neither an identity nor a passphrase");
    refused(Some("other"), "opens none of its keys");
    refused(Some("nothing-there"), "cannot read");
    scratch.file("nonsense", "no identity\n");
    refused(Some("nonsense"), "no age identity");
    // Who was added can open it, until he is removed.
    let added = scratch.ok(["key", "add", "--recipient", &other, "--name", "second"]);
    assert_eq!(added["keys"].as_array().unwrap().len(), 2);
    assert_eq!(code_of(&scratch, Some("other"), &["list"]).0, 0);
    let removed = scratch.ok(["key", "remove", "second"]);
    assert_eq!(removed["keys"].as_array().unwrap().len(), 1);
    refused(Some("other"), "opens none of its keys");
    let (code, document) = scratch.json(["key", "remove", "recipient"]);
    assert_eq!((code, &document["error"]["code"]), (22, &"last_key".into()));
    // A key file of another repository for the same identity.
    let foreign = Scratch::new();
    foreign.ok(["init", "--recipient", &other]);
    let own = scratch.repository_files("keys");
    let theirs = foreign.repository_files("keys").remove(0);
    std::fs::copy(&theirs, scratch.path("repo/keys").join(theirs.file_name().unwrap())).unwrap();
    refused(Some("other"), "belongs to another repository");
    scratch.ok(["list"]);
    for key in own {
        std::fs::remove_file(key).unwrap();
    }
    refused(Some("identity"), "opens none of its keys");
    std::fs::remove_dir_all(scratch.path("repo/keys")).unwrap();
    refused(Some("identity"), "holds no wrapped key");
}

#[test]
fn passphrases_and_ssh_keys_open_it_too() {
    let scratch = Scratch::new();
    scratch.file("passphrase", "correct horse\nsecond line\n");
    scratch.file("wrong", "battery staple\n");
    scratch.file("tree/file", content(1));
    run(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(scratch.path("id")));
    let by = |file: Option<&str>, arguments: &[&str]| {
        let mut command = scratch.icecore();
        if let Some(file) = file {
            command.env("ICECORE_PASSPHRASE_FILE", scratch.path(file));
        }
        document(command.arg("--json").args(arguments))
    };
    // Nobody is at a terminal to be asked.
    let (code, document) = by(None, &["init", "--passphrase"]);
    assert_eq!(code, 2, "{document:#}");
    assert!(!scratch.path("repo/config").exists());
    let public = scratch.path("id.pub");
    let (code, document) =
        by(Some("passphrase"), &["init", "--passphrase", "--recipient", public.to_str().unwrap()]);
    assert_eq!(code, 0, "{document:#}");
    assert_eq!(document["keys"].as_array().unwrap().len(), 2);
    assert_eq!(by(Some("passphrase"), &["backup", "tree"]).0, 0);
    let (code, document) = by(Some("wrong"), &["list"]);
    assert_eq!(code, 12);
    assert!(document["error"]["message"].as_str().unwrap().contains("passphrase is wrong"), "{document:#}");
    assert_eq!(by(None, &["list"]).0, 12);
    assert_eq!(code_of(&scratch, Some("id"), &["validate", "latest"]).0, 0);
    // From the config: a command that prints it.
    let config = "repository = \"repo\"\n[encryption]\npassphrase_command = \"head -1 passphrase\"\n";
    scratch.file("icecore.toml", config);
    assert_eq!(by(None, &["-c", "icecore.toml", "list"]).0, 0);
}

#[test]
fn a_flipped_bit_anywhere_is_noticed() {
    let scratch = encrypted();
    let stamp = scratch.backup(&["tree", "db=app.db"]);
    scratch.ok(["validate", &stamp]);
    for path in files_below(&scratch.path("repo")) {
        let shown = path.strip_prefix(scratch.path("repo")).unwrap().display().to_string();
        let bytes = std::fs::read(&path).unwrap();
        if shown == "README" || shown.starts_with("locks") || bytes.is_empty() {
            continue;
        }
        for at in [0, 9, bytes.len() / 2, bytes.len() - 1] {
            let mut flipped = bytes.clone();
            flipped[at.min(bytes.len() - 1)] ^= 4;
            put(&path, flipped);
            let (code, document) = scratch.json(["check", "--read-data"]);
            let noticed = if shown == "config" || shown.starts_with("keys") { code != 0 } else { code == 14 };
            let is_arriving = shown.starts_with("snapshots");
            assert!(noticed || is_arriving, "{shown} at {at}: {document:#}");
        }
        put(&path, &bytes);
    }
    scratch.ok(["check", "--read-data"]);
}

/// Names are hashes that anybody can compute: what a writer without the key makes has a right name, and is noticed all the same.
#[test]
fn what_somebody_without_the_key_writes_is_noticed() {
    let scratch = encrypted();
    scratch.backup(&["tree"]);
    put(&scratch.path("tree/file-with-a-name"), content(2));
    scratch.backup(&["tree"]);
    let rename = |path: &Path, bytes: &[u8]| {
        let name = blake3::hash(bytes).to_hex().to_string();
        let place = if path.parent().unwrap().file_name().unwrap().len() == 2 {
            path.parent().unwrap().parent().unwrap().join(&name[..2])
        } else {
            path.parent().unwrap().to_owned()
        };
        std::fs::create_dir_all(&place).unwrap();
        std::fs::remove_file(path).unwrap();
        put(&place.join(&name), bytes);
        place.join(name)
    };
    let noticed = |what: &str| {
        let (code, document) = scratch.json(["check", "--read-data"]);
        assert_ne!(code, 0, "{what}: {document:#}");
    };
    // Two chunks of a pack change places; the trailer stays.
    let pack = scratch
        .repository_files("packs")
        .into_iter()
        .max_by_key(|path| path.metadata().unwrap().len())
        .unwrap();
    let bytes = std::fs::read(&pack).unwrap();
    let mut moved = bytes.clone();
    moved[8..80_000].rotate_left(30_000);
    let forged = rename(&pack, &moved);
    noticed("moved bytes");
    std::fs::remove_file(forged).unwrap();
    put(&pack, &bytes);
    // The trailer of another pack.
    let other = scratch.repository_files("packs").into_iter().find(|path| *path != pack).unwrap();
    let other = std::fs::read(other).unwrap();
    let mut swapped = bytes[..bytes.len() - 200].to_vec();
    swapped.extend_from_slice(&other[other.len() - 200..]);
    let forged = rename(&pack, &swapped);
    noticed("another trailer");
    std::fs::remove_file(forged).unwrap();
    put(&pack, &bytes);
    scratch.ok(["check", "--read-data"]);
    // A manifest goes by another one's name; and an index file as a manifest.
    let names = scratch.repository_files("snapshots");
    let line = std::fs::read(&names[1]).unwrap();
    let kept = std::fs::read(&names[0]).unwrap();
    put(&names[0], &line);
    noticed("a swapped name");
    let index = std::fs::read(scratch.repository_files("index").remove(0)).unwrap();
    let name = blake3::hash(&index).to_hex().to_string();
    put(&scratch.path("repo/manifests").join(&name), &index);
    put(&names[0], format!("{name}\n"));
    noticed("an index file as a manifest");
    std::fs::remove_file(scratch.path("repo/manifests").join(name)).unwrap();
    put(&names[0], kept);
    scratch.ok(["check"]);
}

/// Other parameters, no encryption: the config must be readable without a key, and is authenticated all the same.
#[test]
fn a_config_that_asks_for_less_is_refused() {
    let scratch = encrypted();
    scratch.backup(&["tree"]);
    let config = scratch.path("repo/config");
    let text = std::fs::read_to_string(&config).unwrap();
    let write = |body: &str| {
        let hash = blake3::hash(body.as_bytes()).to_hex();
        put(&config, format!("{body},\n  \"blake3\": \"{hash}\"\n}}\n"));
    };
    let body = text.rsplit_once(",\n  \"blake3\"").unwrap().0;
    write(&body.replace("32768", "16384"));
    let (code, document) = scratch.json(["list"]);
    assert_eq!(code, 14, "{document:#}");
    let encryption = &body[body.find("\"encryption\": {").unwrap()..];
    let plain = body.replace(encryption, "\"encryption\": null").replace("[\n    \"encryption\"\n  ]", "[]");
    write(&plain);
    let refused = |what: &str| {
        let (code, document) = scratch.json(["backup", "tree"]);
        assert_eq!(
            (code, &document["error"]["code"]),
            (12, &"another_repository".into()),
            "{what}: {document:#}"
        );
    };
    refused("wrapped keys in a repository without encryption");
    let keys = scratch.repository_files("keys");
    let kept: Vec<Vec<u8>> = keys.iter().map(|key| std::fs::read(key).unwrap()).collect();
    keys.iter().for_each(|key| std::fs::remove_file(key).unwrap());
    refused("an identity for a repository without encryption");
    // Somebody who has neither can tell by the fingerprint, from the config or named otherwise.
    let fingerprint = text.split("\"key\": \"").nth(1).unwrap().split('"').next().unwrap();
    let settings = format!(
        "repository = \"repo\"\n[source.tree]\npath = \"tree\"\n[encryption]\nkey = \"{fingerprint}\"\n"
    );
    scratch.file("icecore.toml", settings);
    let by = |arguments: &[&str], identity: bool| {
        let mut command = scratch.icecore();
        if !identity {
            command.env_remove("ICECORE_IDENTITY");
        }
        self::document(command.arg("--json").args(arguments)).0
    };
    assert_eq!(by(&["-c", "icecore.toml", "backup"], false), 12);
    assert_eq!(by(&["-c", "icecore.toml", "-r", "repo", "backup"], false), 12);
    assert_eq!(by(&["--repository-key", fingerprint, "list"], false), 12);
    assert_eq!(by(&["--repository-key", "any", "-c", "icecore.toml", "list"], true), 0);
    keys.iter().zip(&kept).for_each(|(key, bytes)| put(key, bytes));
    put(&config, text.clone());
    assert_eq!(by(&["-c", "icecore.toml", "backup"], true), 0);
    assert_eq!(by(&["--repository-key", "0123456789abcdef0123456789abcdef", "list"], true), 12);
}

/// Journals say what is overwritten with what: one that somebody else has made is not followed.
#[test]
fn a_forged_journal_is_refused() {
    use icecore::format::Journal;
    let scratch = encrypted();
    let first = scratch.backup(&["tree"]);
    put(&scratch.path("tree/file-with-a-name"), content(2));
    scratch.ok(["restore", &first, "--no-pre-snapshot", "--confirm-service-stopped"]);
    let place = scratch.repository_files("restores");
    let journal = place.iter().find(|path| path.ends_with("journal")).unwrap();
    let bytes = std::fs::read(journal).unwrap();
    let mut forged = Journal::decode(&bytes).unwrap();
    assert!(forged.code.is_some());
    scratch.file("elsewhere/file-with-a-name", "not to be touched");
    forged.items[0].base = scratch.path("elsewhere").into_os_string().into_encoded_bytes();
    let refused = |what: &str| {
        let (code, document) = scratch.json(["restore", "--rollback", "--confirm-service-stopped"]);
        assert_eq!(
            (code, &document["error"]["code"]),
            (14, &"journal_forged".into()),
            "{what}: {document:#}"
        );
        assert_eq!(std::fs::read(scratch.path("elsewhere/file-with-a-name")).unwrap(), b"not to be touched");
    };
    put(journal, forged.encode());
    refused("other places");
    forged.code = None;
    put(journal, forged.encode());
    refused("no code");
    // An undo that isn't encrypted, beside a right journal.
    put(journal, &bytes);
    let undo = journal.with_file_name("undo");
    let kept = scratch.path("kept");
    run(Command::new("cp").arg("-a").arg(&undo).arg(&kept));
    std::fs::remove_dir_all(&undo).unwrap();
    let mut plain = scratch.icecore();
    plain.env_remove("ICECORE_IDENTITY").env("ICECORE_REPOSITORY", &undo).arg("init");
    run(&mut plain);
    refused("another undo");
    std::fs::remove_dir_all(&undo).unwrap();
    run(Command::new("cp").arg("-a").arg(&kept).arg(&undo));
    scratch.ok(["restore", "--rollback", "--confirm-service-stopped"]);
    assert_eq!(std::fs::read(scratch.path("tree/file-with-a-name")).unwrap(), content(2));
}

/// Without its wrapped keys an encrypted repository isn't called one that never was.
#[test]
fn a_repository_that_has_lost_its_keys_is_told_from_one_without() {
    let scratch = Scratch::new();
    let recipient = scratch.new_identity("identity");
    scratch.ok(["init", "--recipient", &recipient]);
    for file in scratch.repository_files("keys") {
        std::fs::remove_file(file).unwrap();
    }
    let (code, document) = scratch.json(["key", "list"]);
    assert_eq!((code, &document["error"]["code"]), (12, &"wrong_key".into()), "{document:#}");
    assert!(document["error"]["hint"].as_str().unwrap().contains("copy keys/"), "{document:#}");
    assert_eq!(scratch.json(["list"]).0, 12);
}

#[test]
fn what_a_broken_off_init_leaves_is_in_nobodys_way() {
    let scratch = Scratch::new();
    let recipient = scratch.new_identity("identity");
    scratch.file("repo/keys/recipient.0123456789abcdef.age", "left behind");
    scratch.ok(["init", "--recipient", &recipient]);
    assert_eq!(scratch.ok(["key", "list"])["keys"].as_array().unwrap().len(), 1);
    // Nor in the way of a repository that isn't encrypted.
    let plain = Scratch::new();
    let wrapped = scratch
        .repository_files("keys")
        .into_iter()
        .find(|path| !path.ends_with("recipient.0123456789abcdef.age"));
    let wrapped = wrapped.unwrap();
    plain.file("repo/keys/x", "");
    std::fs::copy(&wrapped, plain.path("repo/keys").join(wrapped.file_name().unwrap())).unwrap();
    plain.ok(["init"]);
    plain.ok(["list"]);
    // Again, as a script does it.
    scratch.ok(["init", "--if-missing", "--recipient", &recipient]);
    assert_eq!(scratch.ok(["key", "list"])["keys"].as_array().unwrap().len(), 1);
    // A present passphrase is no new one.
    scratch.file("passphrase", "correct horse\n");
    let (code, document) =
        document(scratch.icecore().env("ICECORE_PASSPHRASE_FILE", scratch.path("passphrase")).args([
            "--json",
            "key",
            "add",
            "--passphrase",
        ]));
    assert_eq!(code, 2, "{document:#}");
    scratch.ok(["key", "add", "--passphrase", "--new-passphrase-file", "passphrase"]);
    let (code, document) = scratch.json(["key", "remove", "recipient"]);
    assert_eq!((code, &document["error"]["code"]), (22, &"own_key".into()), "{document:#}");
    let mut by_passphrase = scratch.icecore();
    by_passphrase.env_remove("ICECORE_IDENTITY").env("ICECORE_PASSPHRASE_FILE", scratch.path("passphrase"));
    let (code, document) = self::document(by_passphrase.args(["--json", "key", "remove", "recipient"]));
    assert_eq!(code, 0, "{document:#}");
    assert_eq!(code_of(&scratch, Some("identity"), &["list"]).0, 12);
}
