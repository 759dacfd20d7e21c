//! The import table of `docs/architecture.md`, held against the code.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

fn source_files() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    crate::support::files_below(&root)
        .into_iter()
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .map(|path| {
            let relative = path.strip_prefix(&root).unwrap().display().to_string();
            (relative, std::fs::read_to_string(&path).unwrap())
        })
        .collect()
}

fn room_of(file: &str) -> String {
    let first = Path::new(file).components().next().unwrap().as_os_str().to_string_lossy().into_owned();
    first.trim_end_matches(".rs").to_owned()
}

/// The code without its tests and comments.
fn code(text: &str) -> String {
    let text = text.split("#[cfg(test)]\nmod tests").next().unwrap();
    text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

fn table(heading: &str) -> BTreeMap<String, BTreeSet<String>> {
    let page: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/architecture.md");
    let page = std::fs::read_to_string(page).unwrap();
    let section = page.split(heading).nth(1).unwrap_or_else(|| panic!("no section {heading:?}"));
    let rows = section
        .lines()
        .skip_while(|line| !line.starts_with("|---"))
        .skip(1)
        .take_while(|line| line.starts_with('|'));
    let quoted =
        |cell: &str| -> BTreeSet<String> { cell.split('`').skip(1).step_by(2).map(str::to_owned).collect() };
    let mut found = BTreeMap::new();
    for row in rows {
        let cells: Vec<&str> = row.trim_matches('|').split('|').collect();
        for key in quoted(cells[0]) {
            found.insert(key, quoted(cells[1]));
        }
    }
    found
}

#[test]
fn every_arrow_is_in_the_table() {
    let allowed = table("## Who may import whom");
    let mut wrong = Vec::new();
    for (file, text) in source_files() {
        let room = room_of(&file);
        if room == "lib" || room == "main" {
            continue;
        }
        let allowed = allowed.get(&room).unwrap_or_else(|| panic!("{room} is not in the table"));
        for target in code(&text).split("crate::").skip(1) {
            let target: String =
                target.chars().take_while(|letter| letter.is_alphanumeric() || *letter == '_').collect();
            if target != room && !allowed.contains(&target) {
                wrong.push(format!("{file} imports {target}"));
            }
        }
    }
    wrong.sort();
    wrong.dedup();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn the_table_has_no_circle() {
    let allowed = table("## Who may import whom");
    let mut done: BTreeSet<String> = BTreeSet::new();
    while done.len() < allowed.len() {
        let free: Vec<String> = allowed
            .iter()
            .filter(|(room, below)| !done.contains(*room) && below.is_subset(&done))
            .map(|(room, _)| room.clone())
            .collect();
        assert!(
            !free.is_empty(),
            "a circle among {:?}",
            allowed.keys().filter(|room| !done.contains(*room)).collect::<Vec<_>>()
        );
        done.extend(free);
    }
}

#[test]
fn outside_crates_stay_behind_their_fences() {
    let fences = table("## Where outside crates may be used");
    let mut wrong = Vec::new();
    for (file, text) in source_files() {
        let code = code(&text);
        for (name, places) in &fences {
            let starts_word =
                |at: usize| !code[..at].ends_with(|letter: char| letter.is_alphanumeric() || letter == '_');
            let used = code.match_indices(&format!("{name}::")).any(|(at, _)| starts_word(at));
            let inside = places.iter().any(|place| {
                file == *place || file.starts_with(&format!("{place}/")) || room_of(&file) == *place
            });
            if used && !inside {
                wrong.push(format!("{file} uses {name}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_file_says_what_it_is_for_and_stays_short() {
    for (file, text) in source_files() {
        assert!(text.starts_with("//! "), "{file} does not say what it is for");
        let lines = code(&text).lines().count();
        assert!(lines <= 500, "{file} has {lines} lines");
        assert!(!code(&text).contains("::*;"), "{file} imports everything");
    }
}
