//! Numbers and names as a person reads them.

/// Bytes with a decimal unit and three digits.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["kB", "MB", "GB", "TB", "PB"];
    if count < 1000 {
        return format!("{count} B");
    }
    let mut value = count as f64;
    let mut unit = "B";
    for next in UNITS {
        if value < 999.5 {
            break;
        }
        value /= 1000.0;
        unit = next;
    }
    if value < 9.995 {
        format!("{value:.2} {unit}")
    } else if value < 99.95 {
        format!("{value:.1} {unit}")
    } else {
        format!("{value:.0} {unit}")
    }
}

/// Milliseconds as a duration.
pub fn millis(count: u64) -> String {
    if count < 1000 { format!("{count} ms") } else { format!("{:.1} s", count as f64 / 1000.0) }
}

/// A name of any bytes on one line.
pub fn name(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes)
        .chars()
        .map(|letter| if letter.is_control() { '\u{fffd}' } else { letter })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{bytes, name};

    #[test]
    fn bytes_keep_three_digits() {
        let shown: Vec<String> = [0, 999, 1000, 9_999, 99_960, 1_234_567, 2_042_000_000].map(bytes).into();
        assert_eq!(shown, ["0 B", "999 B", "1.00 kB", "10.0 kB", "100 kB", "1.23 MB", "2.04 GB"]);
    }

    #[test]
    fn names_stay_on_one_line() {
        assert_eq!(name(b"a\nb\xff"), "a\u{fffd}b\u{fffd}");
    }
}
