//! Which snapshots stay: pure policy, per source, in UTC.

use crate::stamp::Stamp;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::Duration;

/// How many snapshots of each kind stay, for each source.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Policy {
    /// The newest ones.
    pub last: u32,
    /// The newest of an hour, of so many hours that have one.
    pub hourly: u32,
    /// The newest of a day.
    pub daily: u32,
    /// The newest of an ISO week: Sunday's, if there is one.
    pub weekly: u32,
    /// The newest of the first of a month, else the earliest later in that month.
    pub monthly: u32,
    /// The newest of a year.
    pub yearly: u32,
    /// All that are at most this much older than the newest one.
    pub within: Option<Duration>,
    /// Safety snapshots, and such as failed a validation, stay this long.
    pub safety: Duration,
}

impl Policy {
    /// Safety snapshots stay this long unless it is said otherwise.
    pub const SAFETY: Duration = Duration::from_secs(7 * 86_400);

    /// Seven days, four weeks, six months.
    pub fn usual() -> Self {
        Self { daily: 7, weekly: 4, monthly: 6, safety: Self::SAFETY, ..Self::default() }
    }

    /// What somebody asked for, counts in the order last, hourly, daily, weekly, monthly, yearly: any of it replaces the usual ones as a
    /// whole. `None` if nothing was asked for.
    pub fn chosen(counts: [Option<u32>; 6], within: Option<Duration>, safety: Duration) -> Option<Self> {
        let is_any = counts.iter().any(Option::is_some) || within.is_some();
        let [last, hourly, daily, weekly, monthly, yearly] = counts.map(Option::unwrap_or_default);
        is_any.then_some(Self { last, hourly, daily, weekly, monthly, yearly, within, safety })
    }

    /// It keeps nothing but what no policy lets go.
    pub fn is_empty(&self) -> bool {
        let counts = [self.last, self.hourly, self.daily, self.weekly, self.monthly, self.yearly];
        counts.iter().all(|count| *count == 0) && self.within.is_none()
    }
}

/// A snapshot of one profile, as far as the policy looks at it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Its name.
    pub stamp: Stamp,
    /// When it counts as taken; as a rule what its name says.
    pub time: Stamp,
    /// The sources that it holds.
    pub sources: Vec<String>,
    pub is_valid: bool,
    pub is_pinned: bool,
    pub is_safety: bool,
}

/// What becomes of a snapshot: the reasons why it stays; none, and it goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    pub stamp: Stamp,
    pub reasons: Vec<String>,
}

impl Verdict {
    /// It stays.
    pub fn stays(&self) -> bool {
        !self.reasons.is_empty()
    }
}

/// Decides about all snapshots of a profile at a point in time. A snapshot stays if any of its sources needs it. The newest
/// valid snapshot of a source, what is pinned, and young safety snapshots stay whatever the policy says.
pub fn decide(candidates: &[Candidate], policy: &Policy, now: Stamp) -> Vec<Verdict> {
    let mut ordered: Vec<&Candidate> = candidates.iter().collect();
    ordered.sort_by_key(|candidate| (candidate.time, candidate.stamp));
    let mut reasons: BTreeMap<Stamp, Vec<String>> = BTreeMap::new();
    let sources: BTreeSet<&String> = ordered.iter().flat_map(|candidate| &candidate.sources).collect();
    let mut newest_of = BTreeMap::new();
    for source in sources {
        let counts = |candidate: &&&Candidate| {
            candidate.is_valid && !candidate.is_safety && candidate.sources.contains(source)
        };
        // Newest first.
        let own: Vec<&Candidate> = ordered.iter().rev().filter(counts).copied().collect();
        if let Some(newest) = own.first() {
            newest_of.insert(source, (newest.time, newest.stamp));
        }
        for (stamp, reason) in kept(&own, policy) {
            reasons.entry(stamp).or_default().push(format!("{reason} of {source}"));
        }
        // One that failed a validation may be mended: it stays as long as it would if it were valid.
        let holds = |candidate: &&&Candidate| !candidate.is_safety && candidate.sources.contains(source);
        let all: Vec<&Candidate> = ordered.iter().rev().filter(holds).copied().collect();
        for (stamp, reason) in kept(&all, policy) {
            if !own.iter().any(|candidate| candidate.stamp == stamp) {
                reasons.entry(stamp).or_default().push(format!("invalid, but {reason} of {source}"));
            }
        }
    }
    let oldest_young = now.unix().saturating_sub_unsigned(policy.safety.as_secs());
    for candidate in &ordered {
        let is_young = candidate.time.unix() > oldest_young;
        let mut keep = |reason: &str| reasons.entry(candidate.stamp).or_default().push(reason.to_owned());
        if candidate.is_pinned {
            keep("pinned");
        }
        if candidate.is_safety && is_young {
            keep("young safety snapshot");
        }
        // It may be mended, and it is evidence; what has a valid successor for each source isn't needed for long.
        let is_superseded = candidate
            .sources
            .iter()
            .all(|source| newest_of.get(source) > Some(&(candidate.time, candidate.stamp)));
        if !candidate.is_valid && !candidate.is_safety && (is_young || !is_superseded) {
            keep("invalid, kept to be looked at");
        }
    }
    let verdict = |candidate: &&Candidate| Verdict {
        stamp: candidate.stamp,
        reasons: reasons.remove(&candidate.stamp).unwrap_or_default(),
    };
    ordered.iter().map(verdict).collect()
}

/// Which of one source's snapshots, newest first, stay, and why.
fn kept(own: &[&Candidate], policy: &Policy) -> Vec<(Stamp, &'static str)> {
    let mut kept = Vec::new();
    let Some(newest) = own.first() else { return kept };
    kept.push((newest.stamp, "newest"));
    kept.extend(own.iter().take(policy.last as usize).map(|one| (one.stamp, "last")));
    let mut periods = |name: &'static str, count: u32, period: fn(Stamp) -> i64| {
        let mut seen = HashSet::new();
        let firsts = own.iter().filter(|one| seen.insert(period(one.time)));
        kept.extend(firsts.take(count as usize).map(|one| (one.stamp, name)));
    };
    periods("hourly", policy.hourly, |time| time.unix().div_euclid(3600));
    periods("daily", policy.daily, Stamp::day);
    // An ISO week ends with its Sunday: the newest of the week is Sunday's if there is one.
    periods("weekly", policy.weekly, |time| (time.day() + 3).div_euclid(7));
    periods("yearly", policy.yearly, |time| i64::from(time.year_month().0));
    for month in months(own).into_iter().take(policy.monthly as usize) {
        let on_the_first = month.iter().find(|one| one.time.day_of_month() == 1);
        if let Some(one) = on_the_first.or(month.last()) {
            kept.push((one.stamp, "monthly"));
        }
    }
    if let Some(within) = policy.within {
        let oldest = newest.time.unix().saturating_sub_unsigned(within.as_secs());
        kept.extend(own.iter().filter(|one| one.time.unix() >= oldest).map(|one| (one.stamp, "within")));
    }
    kept
}

/// Month by month, newest first.
fn months<'o, 'c>(own: &'o [&'c Candidate]) -> Vec<&'o [&'c Candidate]> {
    own.chunk_by(|one, other| one.time.year_month() == other.time.year_month()).collect()
}

#[cfg(test)]
mod tests {
    use super::{Candidate, Policy, decide};
    use crate::stamp::Stamp;
    use proptest::prelude::*;
    use std::collections::BTreeSet;
    use std::time::Duration;

    fn candidate(unix: i64, sources: &[&str]) -> Candidate {
        let sources = sources.iter().map(|source| (*source).to_owned()).collect();
        let stamp = Stamp::from_unix(unix);
        Candidate { stamp, time: stamp, sources, is_valid: true, is_pinned: false, is_safety: false }
    }

    fn staying(candidates: &[Candidate], policy: &Policy, now: i64) -> Vec<Stamp> {
        let verdicts = decide(candidates, policy, Stamp::from_unix(now));
        verdicts.iter().filter(|verdict| verdict.stays()).map(|verdict| verdict.stamp).collect()
    }

    /// 2026-01-05, a Monday, at 03:00.
    const MONDAY: i64 = 1_767_582_000;
    const DAY: i64 = 86_400;

    #[test]
    fn daily_databases_do_not_push_out_sundays_stores() {
        let of_day = |day: i64| {
            let is_sunday = day % 7 == 6;
            candidate(MONDAY + day * DAY, if is_sunday { &["chroma", "db"] } else { &["db"] })
        };
        // A store for each of 30 Sundays, a database for each day.
        let all: Vec<Candidate> = (0..210).map(of_day).collect();
        let kept = staying(&all, &Policy::usual(), MONDAY + 210 * DAY);
        let of_chroma = |stamp: &&Stamp| all.iter().any(|one| one.stamp == **stamp && one.sources.len() == 2);
        let sundays: Vec<Stamp> = kept.iter().filter(of_chroma).copied().collect();
        let weeks: BTreeSet<i64> = sundays.iter().rev().take(4).map(|stamp| stamp.day()).collect();
        assert_eq!(weeks, (26..30).map(|week| of_day(week * 7 + 6).stamp.day()).collect());
        let months: BTreeSet<_> = sundays.iter().map(|stamp| stamp.year_month()).collect();
        assert!(months.len() >= 6, "{sundays:?}");
    }

    #[test]
    fn the_first_of_a_month_comes_before_earlier_and_later_ones() {
        let text = [
            "20260131T030000Z",
            "20260201T010000Z",
            "20260201T230000Z",
            "20260202T030000Z",
            "20260310T030000Z",
            "20260320T030000Z",
        ];
        let all: Vec<Candidate> =
            text.iter().map(|text| candidate(Stamp::parse(text).unwrap().unix(), &["db"])).collect();
        let policy = Policy { monthly: 6, ..Policy::default() };
        let kept: Vec<String> = staying(&all, &policy, 0).iter().map(Stamp::to_string).collect();
        assert_eq!(kept, ["20260131T030000Z", "20260201T230000Z", "20260310T030000Z", "20260320T030000Z"]);
    }

    #[test]
    fn what_no_policy_lets_go_stays() {
        let now = MONDAY + 100 * DAY;
        let mut all: Vec<Candidate> = (0..9).map(|day| candidate(MONDAY + day * DAY, &["db"])).collect();
        all[0].is_pinned = true;
        all[1].sources = vec!["once".into()];
        for newest in [7, 8] {
            all[newest].is_valid = false;
        }
        all[2].is_safety = true;
        let mut young = candidate(now - 6 * DAY, &["db"]);
        young.is_safety = true;
        all.push(young);
        let policy = Policy { last: 1, safety: Policy::SAFETY, ..Policy::default() };
        let days: Vec<i64> =
            staying(&all, &policy, now).iter().map(|stamp| (stamp.unix() - MONDAY) / DAY).collect();
        // Pinned, the only one of its source, the newest valid one, two that are invalid and have no successor, the safety one.
        assert_eq!(days, [0, 1, 6, 7, 8, 94]);
    }

    /// Straight from the words, with text and the calendar of another crate, for one snapshot and one source.
    fn stays_by_the_words(all: &[Candidate], which: usize, source: &str, policy: &Policy) -> bool {
        let counts = |one: &&Candidate| {
            one.is_valid && !one.is_safety && one.sources.iter().any(|name| name == source)
        };
        let own: BTreeSet<Stamp> = all.iter().filter(counts).map(|one| one.stamp).collect();
        let stamp = all[which].stamp;
        let (Some(newest), true) = (own.last(), own.contains(&stamp)) else { return false };
        let later: Vec<Stamp> = own.iter().filter(|other| **other > stamp).copied().collect();
        let week = |stamp: &Stamp| {
            let date: jiff::civil::Date = stamp.rfc3339()[..10].parse().unwrap();
            let week = date.iso_week_date();
            format!("{}-{}", week.year(), week.week())
        };
        let text = |length: usize| move |stamp: &Stamp| stamp.rfc3339()[..length].to_owned();
        let newest_of = |name: &dyn Fn(&Stamp) -> String, count: u32| {
            let periods: BTreeSet<String> = later.iter().map(name).collect();
            !periods.contains(&name(&stamp)) && (periods.len() as u32) < count
        };
        let month = text(7);
        let in_month: Vec<&Stamp> = own.iter().filter(|other| month(other) == month(&stamp)).collect();
        let firsts: Vec<&&Stamp> = in_month.iter().filter(|other| other.rfc3339()[8..10] == *"01").collect();
        let of_month = firsts.last().map_or(in_month[0], |first| **first);
        let later_months: BTreeSet<String> =
            later.iter().map(&month).filter(|other| *other != month(&stamp)).collect();
        let within = policy
            .within
            .is_some_and(|within| newest.unix() - stamp.unix() <= i64::try_from(within.as_secs()).unwrap());
        stamp == *newest
            || (later.len() as u32) < policy.last
            || newest_of(&text(13), policy.hourly)
            || newest_of(&text(10), policy.daily)
            || newest_of(&week, policy.weekly)
            || newest_of(&text(4), policy.yearly)
            || (*of_month == stamp && (later_months.len() as u32) < policy.monthly)
            || within
    }

    proptest! {
        #[test]
        fn decisions_are_those_that_the_words_say(
            hours in proptest::collection::btree_map(0i64..30_000, (1u8..8, any::<bool>()), 1..60),
            counts in proptest::array::uniform6(0u32..5),
            within in proptest::option::of(0u64..4_000_000),
        ) {
            let [last, hourly, daily, weekly, monthly, yearly] = counts;
            let within = within.map(Duration::from_secs);
            let policy = Policy { last, hourly, daily, weekly, monthly, yearly, within, safety: Duration::ZERO };
            let names = ["a", "b", "c"];
            let all: Vec<Candidate> = hours
                .iter()
                .map(|(hour, (which, valid))| {
                    let sources: Vec<&str> = names.iter().enumerate().filter(|(bit, _)| which >> bit & 1 == 1).map(|(_, name)| *name).collect();
                    Candidate { is_valid: *valid || hour % 3 > 0, ..candidate(MONDAY + hour * 1801, &sources) }
                })
                .collect();
            let now = MONDAY + 30_001 * 1801;
            for (number, verdict) in decide(&all, &policy, Stamp::from_unix(now)).iter().enumerate() {
                let by_words = names.iter().any(|name| stays_by_the_words(&all, number, name, &policy));
                let by_policy = verdict.reasons.iter().any(|reason| !reason.starts_with("invalid"));
                prop_assert_eq!(by_policy, by_words, "{} {:?}", verdict.stamp, verdict.reasons);
            }
        }
    }
}
