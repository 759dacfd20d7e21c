//! The links above level 0: a list per element and level, as `link_lists.bin` has them.

use super::context::{Context, place};
use super::offenders::Offenders;
use super::trouble::Outcome;
use super::window::Window;
use crate::source::chroma::layout::{IndexHeader, LINK_LISTS};
use crate::source::interface::ReadAt;

/// Elements whose levels are in memory at a time; more take more passes.
const LEVELS_AT_ONCE: u64 = 64 << 20;
/// hnswlib draws levels at random: the chance of a level as high as this is nothing.
const MAX_LEVEL: u64 = 200;

/// Walks the file to its end; checks every link, and the entry point.
pub fn judge_link_lists(context: &mut Context<'_>, directory: &str, header: &IndexHeader) -> Outcome<()> {
    let path = place(directory, LINK_LISTS);
    let file = context.open(directory, LINK_LISTS)?;
    let (mut highest, mut of_entry) = (0u8, 0u8);
    let mut wrong = Offenders::default();
    let mut levels = Vec::new();
    let mut start = 0;
    while start == 0 || start < header.elements {
        let end = start.saturating_add(LEVELS_AT_ONCE).min(header.elements);
        levels.clear();
        levels.resize((end - start) as usize, 0u8);
        let walked = each_element(&*file, header, &mut |element, lists| {
            let level = (lists.len() as u64 / header.list_bytes().max(1)) as u8;
            highest = highest.max(level);
            if element == u64::from(header.entry_point) {
                of_entry = level;
            }
            if let Some(place) = element.checked_sub(start).and_then(|at| levels.get_mut(at as usize)) {
                *place = level;
            }
        })?;
        match walked {
            Walked::Whole => {}
            Walked::Trailing(bytes) if start == 0 => {
                let detail = format!("{bytes} bytes follow the last element's links");
                context.warning("hnsw_link_lists_trailing", &path, detail);
            }
            Walked::Trailing(_) => {}
            Walked::Broken(detail) => {
                context.error("hnsw_link_lists_invalid", &path, detail);
                return Ok(());
            }
        }
        let level_of =
            |element: u64| element.checked_sub(start).and_then(|at| levels.get(at as usize)).copied();
        each_element(&*file, header, &mut |element, lists| {
            let list_bytes = header.list_bytes().max(1) as usize;
            for (below, list) in lists.chunks_exact(list_bytes).enumerate() {
                if let Some(problem) = problem_of(list, below + 1, header, &level_of, start == 0) {
                    wrong.add(|| format!("element {element}, level {}: {problem}", below + 1));
                }
            }
        })?;
        start = end.max(1);
    }
    if !wrong.is_empty() {
        context.error("hnsw_links_invalid", &path, wrong.tell("list(s) of links"));
    }
    let levels_agree = i32::from(highest) == header.max_level && highest == of_entry;
    if header.elements > 0 && !levels_agree {
        let detail = format!(
            "the entry point {} is on level {of_entry}, the header says {}, the highest is {highest}",
            header.entry_point, header.max_level
        );
        context.error("hnsw_entry_invalid", directory, detail);
    }
    Ok(())
}

/// What is wrong with one list. `level_of` knows some elements' levels.
fn problem_of(
    list: &[u8],
    level: usize,
    header: &IndexHeader,
    level_of: &dyn Fn(u64) -> Option<u8>,
    first_pass: bool,
) -> Option<String> {
    let count = list.first_chunk().map_or(0, |bytes| u16::from_le_bytes(*bytes));
    if u64::from(count) > header.max_links {
        return first_pass.then(|| format!("{count} links"));
    }
    let targets = list.get(4..).unwrap_or_default().chunks_exact(4).take(usize::from(count));
    for target in targets {
        let target = u64::from(target.first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes)));
        if target >= header.elements {
            if first_pass {
                return Some(format!("a link to {target}"));
            }
        } else if level_of(target).is_some_and(|found| usize::from(found) < level) {
            return Some(format!("a link to {target}, which is not on that level"));
        }
    }
    None
}

enum Walked {
    Whole,
    Trailing(u64),
    Broken(String),
}

/// Gives each element's lists to `visit`: a length that is a multiple of one level's list, then that many bytes.
fn each_element(
    file: &dyn ReadAt,
    header: &IndexHeader,
    visit: &mut dyn FnMut(u64, &[u8]),
) -> Outcome<Walked> {
    let list_bytes = header.list_bytes();
    let mut window = Window::new();
    let mut at = 0u64;
    let mut bytes = Vec::new();
    for element in 0..header.elements {
        let left = file.size().saturating_sub(at);
        if left < 4 {
            return Ok(Walked::Broken(format!("it ends before element {element} of {}", header.elements)));
        }
        bytes.clear();
        window.append(file, at, 4, &mut bytes)?;
        let length = u64::from(bytes.first_chunk().map_or(0, |word| u32::from_le_bytes(*word)));
        if length % list_bytes != 0 || length / list_bytes > MAX_LEVEL {
            return Ok(Walked::Broken(format!("element {element} has {length} bytes of upper links")));
        }
        if left - 4 < length {
            return Ok(Walked::Broken(format!("the links of element {element} are cut short")));
        }
        bytes.clear();
        window.append(file, at + 4, length, &mut bytes)?;
        visit(element, &bytes);
        at += 4 + length;
    }
    Ok(if at < file.size() { Walked::Trailing(file.size() - at) } else { Walked::Whole })
}
