//! The rules of waiting, modes and sessions, and what shows each: the scripts that say it, the
//! services that break it and are rejected by one of these scripts, and, where a script cannot say
//! it, the test that does.
//!
//! The numbers are those of the sections of the contract's second part. The page
//! `docs/conformance-rules.md` is written from this list.

use super::mutants::Rejected;

/// A rule of the contract.
pub(super) struct Rule {
    number: &'static str,
    words: &'static str,
    /// The numbers of the scripts that say it.
    scripts: &'static [&'static str],
    /// Services that break it.
    wrong: &'static [&'static str],
    /// Tests elsewhere: a file, and a function in it.
    tests: &'static [(&'static str, &'static str)],
}

const fn rule(
    number: &'static str,
    words: &'static str,
    scripts: &'static [&'static str],
    wrong: &'static [&'static str],
) -> Rule {
    Rule { number, words, scripts, wrong, tests: &[] }
}

const fn tested(
    number: &'static str,
    words: &'static str,
    tests: &'static [(&'static str, &'static str)],
) -> Rule {
    Rule { number, words, scripts: &[], wrong: &[], tests }
}

impl Rule {
    const fn also(self, tests: &'static [(&'static str, &'static str)]) -> Self {
        Self { tests, ..self }
    }
}

const QUEUE: &str = "crates/core/src/lock/tests/queue.rs";
const SESSIONS: &str = "crates/core/src/lock/tests/sessions.rs";
const DELETION: &str = "crates/core/src/lock/tests/deletion.rs";
const MEMORY: &str = "crates/core/src/memory.rs";
const WAITING: &str = "tests/it/waiting.rs";

/// The rules, in the contract's order.
const RULES: &[Rule] = &[
    rule(
        "1",
        "the owner is signee and instance",
        &["08", "27", "38"],
        &["instances are ignored", "a queue knows no instances", "an inbox knows no instances"],
    ),
    rule(
        "1",
        "of one lock an owner has a grant or a place, never both",
        &["27"],
        &["a try takes its owner's place away"],
    ),
    rule(
        "1",
        "a limit is 1 to 65,535, in mode permits only",
        &["23", "34", "43"],
        &["a limit ends at a thousand"],
    ),
    rule(
        "1",
        "levels of places are whole numbers within 2^53-1 to both sides",
        &["43"],
        &["levels have 32 bits"],
    ),
    rule("1", "names of up to 1024 bytes wait and have sessions", &["43"], &["long names are cut"]),
    rule(
        "2.1",
        "exclusive has one holder, shared any number, permits as many as the limit",
        &["22", "23", "33", "43"],
        &["modes are ignored", "permits have no end"],
    ),
    rule(
        "2.1",
        "expired grants count only during their lock-delay",
        &["33", "35"],
        &["lock-delay is skipped"],
    ),
    rule(
        "2.2",
        "the limit is that of the grants and places; another is refused",
        &["23", "34"],
        &["a limit is not compared"],
    ),
    rule(
        "2.2",
        "an operator changes it at once; too many holders stay",
        &["23", "34", "43"],
        &["a limit is not changed", "every lock has a limit to change"],
    ),
    rule(
        "2.3",
        "a slot is the smallest free number from 0",
        &["23", "34", "43"],
        &["slots are not told", "a slot is given once", "a permit changes its slot"],
    ),
    rule(
        "2.4",
        "expired readers and permits are removed; joining others is ok",
        &["33", "34"],
        &["who joins others takes the lock over"],
    ),
    rule(
        "2.4",
        "whoever takes the place of several is told the newest",
        &["33"],
        &["a take-over from several names the oldest"],
    ),
    rule(
        "2.5",
        "what a holder leaves out it keeps",
        &["12", "33", "35"],
        &["a renewal that leaves the level out lowers it to 0", "a renewal ends the lock-delay"],
    ),
    rule(
        "2.5",
        "exclusive to shared at once, shared to exclusive for the only holder",
        &["22", "29", "30", "33"],
        &[
            "an upgrade takes the lock from other readers",
            "an upgrade waits",
            "a holder that others wait for keeps its mode",
        ],
    ),
    rule(
        "2.5",
        "any other change of mode is refused",
        &["22", "33"],
        &["a holder changes to any mode"],
    ),
    rule(
        "2.6",
        "a second lock is a renewal, one unlock releases",
        &["43"],
        &["a lock counts how often it was taken"],
    ),
    rule(
        "3.1",
        "a higher level first, then the earlier place",
        &["20", "30"],
        &["the level of a place is ignored"],
    ),
    rule(
        "3.2",
        "token and duration count from the step that grants",
        &["29"],
        &["a wait is counted into the duration"],
    ),
    rule(
        "3.2",
        "a queue is worked off in portions, to its end",
        &["43"],
        &["only the first portion of a queue is handed over"],
    )
    .also(&[
        (QUEUE, "ten_thousand_places_are_allowed_on_a_lock_and_handed_over_in_portions"),
        (DELETION, "whoever_comes_while_a_table_is_worked_off_waits_behind_and_is_granted_at_last"),
        (
            "crates/core/src/lock/tests/time.rs",
            "no_more_than_a_portion_is_worked_off_and_nobody_can_tell",
        ),
    ]),
    rule(
        "3.2",
        "ends of grants before time-outs at the same time",
        &["29"],
        &["a time-out comes before the end of a grant"],
    ),
    rule(
        "3.3",
        "the head is judged as a request made now, and stops at the first that is not compatible",
        &["29", "22"],
        &["a lowered level hands nothing over", "a reader overtakes a writer"],
    ),
    rule(
        "3.3",
        "of the permits the lowest level, of these the newest token, is preempted",
        &["31", "34"],
        &["a preempted permit is the oldest"],
    ),
    rule(
        "3.4",
        "nobody barges in at the same or a lower level",
        &["20", "22", "30"],
        &["a request barges in"],
    ),
    rule(
        "3.4",
        "not subject to it: renewals, the former owner in its lock-delay, force",
        &["30", "31"],
        &["a renewal is queued", "a former owner in its lock-delay is queued", "force is queued"],
    ),
    rule(
        "3.5",
        "a wait ends in cluster time, after at most a minute, 366 days in a session",
        &["20", "21", "28", "32"],
        &[
            "a wait never ends",
            "nobody waits",
            "nobody waits for more than a minute, in a session neither",
        ],
    ),
    rule(
        "3.5",
        "without respond: queued the answer is held until it is known",
        &["28"],
        &["nobody is held until the end of its wait"],
    )
    .also(&[(WAITING, "a_waiter_survives_a_change_of_leader")]),
    rule(
        "3.6",
        "asked again: the same place, and the later end",
        &["21", "28", "32"],
        &["asking again does not move the end of a wait"],
    ),
    rule(
        "3.6",
        "another request of the owner takes its place over; a difference stands anew",
        &["21", "28", "32"],
        &[
            "a request that passed its place on waits with it",
            "a difference in duration keeps the place",
        ],
    ),
    rule(
        "3.6",
        "a place does not hang on its lane",
        &["32"],
        &["a later request of a lane ends the place of the one before"],
    ),
    rule(
        "3.7",
        "a caller that goes away leaves its place two seconds later",
        &["42"],
        &["a caller that goes away keeps its place", "a place goes at once with its caller"],
    )
    .also(&[(
        WAITING,
        "the_places_of_callers_that_have_gone_are_left_unless_they_are_asked_for_again",
    )]),
    rule(
        "3.7",
        "the grant that it became is released",
        &["42"],
        &["a grant of a caller that has gone stays"],
    )
    .also(&[(
        WAITING,
        "a_grant_that_nobody_waits_for_any_more_is_released_also_by_the_next_leader",
    )]),
    rule(
        "3.7",
        "unless it was asked for or renewed since, or is in a session",
        &["42"],
        &[
            "a place that was asked for again goes with its first caller",
            "a place in a session goes with its caller",
        ],
    ),
    rule(
        "3.8",
        "valid_ms counts from the ask",
        &["28"],
        &["a wait is not counted into the validity"],
    ),
    tested(
        "3.9",
        "while it waits, a request costs no admission permit and no task",
        &[(WAITING, "requests_that_wait_take_no_admission_permits")],
    ),
    rule(
        "3.10",
        "unlock without token leaves a place, with a token never",
        &["21", "28", "32"],
        &["unlock leaves no place", "a release ignores its token"],
    ),
    rule(
        "3.11",
        "10,000 places a lock; one more is refused, and nobody else",
        &["44"],
        &["a queue has no bound", "a full queue keeps its holder from renewing"],
    )
    .also(&[
        (QUEUE, "the_places_of_a_principal_are_bounded_over_all_locks"),
        (SESSIONS, "a_hundred_thousand_sessions_are_open_and_not_one_more"),
    ]),
    tested(
        "3.12",
        "in a batch a request with wait_ms is queued",
        &[("src/http/batch.rs", "no_wait")],
    ),
    rule(
        "3.12",
        "token or force together with wait_ms is a bad request",
        &["21", "32"],
        &["token and wait_ms go together"],
    ),
    rule(
        "3.13",
        "force takes only the holders in its way, and leaves the queue",
        &["31"],
        &["force empties the queue", "force waits for the end of a lock-delay"],
    ),
    rule(
        "3.13",
        "no earlier place preempts what was taken by force",
        &["31"],
        &["a place preempts a grant that was taken by force"],
    ),
    rule(
        "3.14",
        "the longest hold ends renewals",
        &["24", "38", "40"],
        &["a holder renews beyond the longest hold"],
    ),
    rule(
        "3.15",
        "a check shows the queue, at most 100 places of it; a list the number",
        &["39", "44"],
        &[
            "a check shows no places",
            "every place has only begun to wait",
            "places are shown from the first on",
            "a list does not count who waits",
            "a check shows every place",
        ],
    ),
    rule("3.15", "owners that wait for each other are shown", &["39"], &["no deadlock is found"]),
    rule(
        "4.1",
        "a session: 1 s to 24 h, a repetition gets the first id, an instance of its own",
        &["36"],
        &["a repetition opens another session", "all sessions of a signee are one owner"],
    ),
    rule(
        "4.2",
        "a grant in a session lasts as long as it; a lock request keeps none alive",
        &["25", "36"],
        &["a grant in a session lasts by itself", "a lock request keeps its session alive"],
    ),
    rule(
        "4.2",
        "an unknown or ended session is lost",
        &["25", "36", "41"],
        &["an unknown session is no hindrance"],
    ),
    rule(
        "4.3",
        "another session of the owner: renewed, a new token, and the old one is told",
        &["25", "37"],
        &[
            "a move is not told",
            "a place that moves loses its position",
            "a renewal by token leaves its session",
        ],
    )
    .also(&[(SESSIONS, "a_session_belongs_to_the_principal_that_opened_it")]),
    rule(
        "4.4",
        "the inbox has what was not seen, the latest of each lock",
        &["25", "38"],
        &[
            "an inbox is empty",
            "what was seen is told again",
            "a grant of a place is not told",
            "the end of a place is not told",
            "a loss by force is not told",
            "a loss to a higher level is not told",
            "a told grant has no level",
        ],
    ),
    rule(
        "4.4",
        "at most 1000 items, and more; over 10,000 the oldest go, and overflow",
        &["44"],
        &["an inbox never says that there is more"],
    )
    .also(&[(SESSIONS, "an_inbox_is_told_in_portions_and_says_what_it_has_dropped")]),
    rule(
        "4.4",
        "the grants and places of a session are listed in pages",
        &["39", "43", "44"],
        &["a session's places are not listed", "a session's locks are listed on one page"],
    ),
    rule(
        "4.5",
        "closed is absent, expired is expired",
        &["25", "36"],
        &["a closed session lives on"],
    )
    .also(&[(SESSIONS, "many_locks_of_a_session_end_in_portions_those_that_are_waited_for_first")]),
    rule(
        "4.5",
        "never revived, and a place of an ended session is never granted",
        &["25", "36"],
        &["a session is revived by a late keep-alive", "a place outlives its session"],
    ),
    rule("4.6", "TTL means TTL", &["25", "36"], &["a session lives twice as long"])
        .also(&[(WAITING, "a_waiter_survives_a_change_of_leader")]),
    rule(
        "4.7",
        "time_to_live counts from the session's end",
        &["36"],
        &["a session's grant is removed with it"],
    ),
    tested(
        "4.7",
        "sessions belong to the principal that opened them",
        &[
            (SESSIONS, "a_session_belongs_to_the_principal_that_opened_it"),
            (
                "crates/core/src/lock/tests/access.rs",
                "a_session_is_its_openers_and_an_administrator_ends_and_lists_any",
            ),
            (
                "crates/core/src/lock/tests/access.rs",
                "a_place_stays_when_its_token_is_revoked_and_is_kept_by_the_identitys_new_one",
            ),
            (
                "crates/core/src/lock/tests/access.rs",
                "a_bound_signee_is_that_of_the_identity_also_through_a_session",
            ),
        ],
    ),
    rule(
        "5",
        "a lock-delay of up to a minute keeps all but the former owner out",
        &["24", "35", "43"],
        &[
            "lock-delay is skipped",
            "a lock-delay keeps readers from a reader",
            "a table's lock-delay is forgotten",
        ],
    ),
    rule(
        "5",
        "a release and force end it, a higher level does not",
        &["24", "31", "35"],
        &[
            "a late release does not end the lock-delay",
            "a higher level ends a lock-delay",
            "force waits for the end of a lock-delay",
        ],
    ),
    rule(
        "10.1",
        "verify tells whether a token is live, its mode, level, slot and holder",
        &["26", "37", "40"],
        &["every token is live", "verify knows no slot"],
    ),
    rule(
        "10.2",
        "an operator ends exactly one grant or place",
        &["26", "38", "40"],
        &[
            "an operator releases whatever is held",
            "an operator ends the first place",
            "an operator's release is not told",
        ],
    ),
    rule(
        "10.3",
        "a deleted table ends its grants and places, and its sessions live on",
        &["26", "38", "40"],
        &[
            "a deleted table is not told",
            "a deleted table closes the sessions in it",
            "a table is not deleted",
        ],
    ),
    rule(
        "10.3",
        "settings of a table apply to later requests",
        &["15", "40"],
        &["the defaults of a table are ignored"],
    ),
    tested(
        "10.3",
        "new fields are unavailable below their feature level",
        &[(QUEUE, "below_feature_level_2_new_fields_are_refused")],
    ),
    rule(
        "10.4",
        "the reasons of a refusal are a closed list",
        &["41", "44"],
        &["every refusal is that the lock is held"],
    ),
    tested(
        "10.5",
        "whoever waits in memory drives the clock",
        &[(MEMORY, "whoever_waits_drives_the_clock")],
    ),
];

/// The rules that no wrong service breaks: none of theirs was rejected by one of their scripts.
pub(super) fn unproven(rejected: &Rejected) -> Vec<String> {
    let mut unproven = Vec::new();
    for Rule { number, words, scripts, wrong, .. } in RULES {
        for name in *wrong {
            let by = rejected.get(name).map(Vec::as_slice).unwrap_or_default();
            if !by.iter().any(|script| scripts.iter().any(|number| script.starts_with(number))) {
                unproven.push(format!("{number}, {words}: `{name}` is rejected by {by:?} only"));
            }
        }
    }
    unproven
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;
    use std::fs;
    use std::path::Path;

    use super::super::scripts;
    use super::*;

    const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

    const HEAD: &str = "# Which script shows which rule

The rules of waiting, modes, sessions and lock-delay, by the numbers of the contract's second part: the scripts of the
[conformance suite](conformance.md) that say each, and the wrong services that these scripts reject. What no script can say, or
what a script says only in part, has a test. The page is written from `crates/harness/src/conformance/rules.rs`
(`UPDATE_GOLDENFILES=1 cargo nextest run -p keyward-harness rules`), and the test of the wrong services holds it to that.

Not in it: preemption with notice, several locks at once, values and events, which are not built.

| rule | in short | scripts | rejected | tests |
|---|---|---|---|---|
";

    #[test]
    fn each_rule_has_scripts_and_a_wrong_service_or_a_test() {
        let names: Vec<_> = scripts().into_iter().map(|script| script.name).collect();
        for Rule { number, words, scripts, wrong, tests } in RULES {
            assert_eq!(scripts.is_empty(), wrong.is_empty(), "{number}, {words}");
            assert!(!scripts.is_empty() || !tests.is_empty(), "{number}, {words}");
            for script in *scripts {
                let is_there = names.iter().any(|name| name.starts_with(script));
                assert!(is_there, "{number}, {words}: {script}");
            }
            for (file, test) in *tests {
                let text = fs::read_to_string(Path::new(ROOT).join(file)).unwrap_or_default();
                let is_there = text.contains(&format!("fn {test}"));
                assert!(is_there, "{number}, {words}: {file} has no {test}");
            }
        }
    }

    #[test]
    fn each_script_of_waiting_says_a_rule() {
        for script in scripts().into_iter().filter(|script| *script.name >= *"20") {
            let said = RULES
                .iter()
                .any(|rule| rule.scripts.iter().any(|number| script.name.starts_with(number)));
            assert!(said, "no rule names {}", script.name);
        }
    }

    #[test]
    fn the_page_of_the_rules_says_the_list() {
        let path = Path::new(ROOT).join("docs/conformance-rules.md");
        let page = page();
        if std::env::var("UPDATE_GOLDENFILES").is_ok_and(|value| value == "1") {
            fs::write(&path, &page).unwrap();
        }
        let found = fs::read_to_string(&path).unwrap_or_default();
        assert!(found == page, "docs/conformance-rules.md is another: UPDATE_GOLDENFILES=1");
    }

    fn page() -> String {
        let mut page = HEAD.to_owned();
        for Rule { number, words, scripts, wrong, tests } in RULES {
            let tests: Vec<String> =
                tests.iter().map(|(file, test)| format!("`{file}`: {test}")).collect();
            let (scripts, wrong, tests) = (scripts.join(", "), wrong.join("; "), tests.join("; "));
            writeln!(page, "| {number} | {words} | {scripts} | {wrong} | {tests} |").unwrap();
        }
        page
    }
}
