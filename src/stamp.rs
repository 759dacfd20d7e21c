//! Points in time: a snapshot's stamp (UTC, whole seconds) and nanosecond timestamps.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

/// The name of a snapshot: a UTC second, written `YYYYMMDDTHHMMSSZ`, so that names sort by time.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stamp(i64);

/// 0000-01-01 and 9999-12-31T23:59:59 in Unix seconds: the stamps that four year digits can write.
const RANGE: std::ops::RangeInclusive<i64> = -62_167_219_200..=253_402_300_799;

impl Stamp {
    /// The stamp of a Unix time in seconds, clamped to the years 0 to 9999.
    pub fn from_unix(seconds: i64) -> Self {
        Self(seconds.clamp(*RANGE.start(), *RANGE.end()))
    }

    /// The stamp of a nanosecond timestamp (rounded down).
    pub fn from_nanos(nanos: i64) -> Self {
        Self::from_unix(nanos.div_euclid(1_000_000_000))
    }

    /// Seconds since 1970-01-01T00:00:00Z.
    pub fn unix(self) -> i64 {
        self.0
    }

    /// The stamp one second later.
    pub fn next(self) -> Self {
        Self::from_unix(self.0 + 1)
    }

    /// Days since 1970-01-01, which was a Thursday.
    pub fn day(self) -> i64 {
        self.0.div_euclid(86_400)
    }

    /// The year and the month, 1 to 12.
    pub fn year_month(self) -> (i16, i8) {
        let date = civil(self.0);
        (date.year(), date.month())
    }

    /// The day of the month, from 1.
    pub fn day_of_month(self) -> i8 {
        civil(self.0).day()
    }

    /// Reads `YYYYMMDDTHHMMSSZ`; `None` for anything else, impossible dates included.
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = text.as_bytes();
        if bytes.len() != 16 || bytes.get(8) != Some(&b'T') || bytes.get(15) != Some(&b'Z') {
            return None;
        }
        let number = |range: std::ops::Range<usize>| -> Option<i16> {
            let digits = bytes.get(range)?;
            digits.iter().all(u8::is_ascii_digit).then_some(())?;
            std::str::from_utf8(digits).ok()?.parse().ok()
        };
        let small = |range| number(range).and_then(|value| i8::try_from(value).ok());
        let date = jiff::civil::Date::new(number(0..4)?, small(4..6)?, small(6..8)?).ok()?;
        let time = jiff::civil::Time::new(small(9..11)?, small(11..13)?, small(13..15)?, 0).ok()?;
        let zoned = date.to_datetime(time).to_zoned(jiff::tz::TimeZone::UTC).ok()?;
        Some(Self::from_unix(zoned.timestamp().as_second()))
    }

    /// RFC 3339, as in `2026-04-07T06:00:00Z`.
    pub fn rfc3339(self) -> String {
        civil(self.0).strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
    }
}

impl fmt::Display for Stamp {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", civil(self.0).strftime("%Y%m%dT%H%M%SZ"))
    }
}

impl fmt::Debug for Stamp {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{self}")
    }
}

fn civil(seconds: i64) -> jiff::civil::DateTime {
    let timestamp = jiff::Timestamp::from_second(seconds).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    timestamp.to_zoned(jiff::tz::TimeZone::UTC).datetime()
}

/// The wall clock in nanoseconds since 1970 (negative before).
pub fn now_nanos() -> i64 {
    match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_nanos()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_nanos()).map_or(i64::MIN, |nanos| -nanos),
    }
}

/// A nanosecond timestamp as RFC 3339 with milliseconds, in UTC.
pub fn rfc3339_millis(nanos: i64) -> String {
    let millis = nanos.div_euclid(1_000_000).rem_euclid(1000);
    let whole = Stamp::from_nanos(nanos).rfc3339();
    format!("{}.{millis:03}Z", whole.trim_end_matches('Z'))
}

#[cfg(test)]
mod tests {
    use super::{Stamp, rfc3339_millis};

    #[test]
    fn a_stamp_reads_back_what_it_writes() {
        for seconds in [0, 1, 951_782_400, 1_775_541_600, 4_102_444_799, -1] {
            let stamp = Stamp::from_unix(seconds);
            assert_eq!(Stamp::parse(&stamp.to_string()), Some(stamp), "{stamp}");
        }
        assert_eq!(Stamp::from_unix(1_775_541_600).to_string(), "20260407T060000Z");
        assert_eq!(Stamp::from_unix(1_775_541_600).rfc3339(), "2026-04-07T06:00:00Z");
    }

    #[test]
    fn what_is_not_a_stamp_is_refused() {
        for text in [
            "",
            "latest",
            "20260407T060000",
            "20261307T060000Z",
            "20260230T000000Z",
            "2026-4-7T060000Z",
            "+0260407T060000Z",
        ] {
            assert_eq!(Stamp::parse(text), None, "{text}");
        }
    }

    #[test]
    fn milliseconds_are_kept_before_1970_too() {
        assert_eq!(rfc3339_millis(1_500_000_000), "1970-01-01T00:00:01.500Z");
        assert_eq!(rfc3339_millis(-500_000_000), "1969-12-31T23:59:59.500Z");
    }
}
