//! Every other client command: its output, for people and for programs, and its exit code.

use std::process::Output;
use std::sync::Arc;

use keyward::clock::{Clock, ManualClock};
use keyward::http::{Rate, Rates};
use serde_json::{Value, json};

use super::{Server, assert_code, keyward, output, stderr, stdout};

fn document(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

#[test]
fn a_lock_is_taken_refused_shown_and_released() {
    let server = Server::start();
    let run = |line: &str| output(server.keyward(line));

    let taken = run("lock jobs/a --signee one --duration 1h --level 2");
    assert_code(&taken, 0);
    assert!(
        stdout(&taken).starts_with("jobs/a is yours: token 1, level 2, expires in "),
        "{taken:?}"
    );

    let refused = run("lock jobs/a --signee two --level 2");
    assert_code(&refused, 1);
    assert_eq!(stdout(&refused), "");
    assert!(stderr(&refused).contains("jobs/a is held by one at level 2 with token 1"));

    let shown = run("check jobs/a");
    assert_code(&shown, 0);
    assert!(stdout(&shown).starts_with("jobs/a is held by one at level 2 with token 1, "));

    let listed = run("list jobs/");
    assert_code(&listed, 0);
    assert_eq!(stdout(&listed).lines().count(), 2, "{}", stdout(&listed));

    assert_code(&run("unlock jobs/a --signee two"), 1);
    assert_code(&run("unlock jobs/a --signee one --token 7"), 1);
    let released = run("unlock jobs/a --signee one");
    assert_code(&released, 0);
    assert_eq!(stdout(&released), "jobs/a is released\n");
    assert_code(&run("unlock jobs/a --signee one"), 0);

    let missing = run("check jobs/a");
    assert_code(&missing, 1);
    assert!(stderr(&missing).contains("there is no lock jobs/a"));
    assert_eq!(stdout(&run("list")), "no locks in table default\n");
}

#[test]
fn programs_read_the_fields_of_the_http_api() {
    let server = Server::start();
    let run = |line: &str| output(server.keyward(line));

    let taken = document(&run("lock a --signee one --duration 1h --json"));
    assert_eq!(taken["status"], "ok");
    assert_eq!(taken["token"], 1);
    assert!(taken["expires_in_ms"].as_u64().unwrap() > 3_590_000);

    let refused = run("lock a --signee two --json");
    assert_code(&refused, 1);
    let problem = document(&refused);
    assert_eq!(problem["code"], "forbidden");
    assert_eq!(problem["holders"][0]["signee"], "one");

    assert_eq!(document(&run("check a --json"))["holders"][0]["token"], 1);
    assert_eq!(document(&run("list --json"))["locks"][0]["signature"], "a");
    assert_eq!(document(&run("lock b --signee one --token 9 --json"))["reason"], "lost");
    assert_eq!(document(&run("check b --json"))["code"], "not_found");
    assert_eq!(document(&run("unlock a --signee one --json")), json!({ "status": "ok" }));
    assert_eq!(document(&run("unlock a --signee one --json")), json!({ "status": "no_lock" }));

    let wrong = run("lock '' --signee one --json");
    assert_code(&wrong, 2);
    assert_eq!(document(&wrong)["code"], "bad_request");
}

#[test]
fn tables_are_configured_shown_and_deleted_only_on_purpose() {
    let server = Server::start();
    let run = |line: &str| output(server.keyward(line));
    assert_code(&run("table configure jobs --duration 1h --time-to-live 7d"), 0);
    assert_code(&run("lock a --signee one --table jobs"), 0);
    let shown = run("tables");
    assert_eq!(
        stdout(&shown),
        "TABLE  LOCKS  DURATION  TIME TO LIVE  LOCK-DELAY  LONGEST HOLD\n\
         jobs   1      1h        7d            -           -\n"
    );
    assert_code(&run("table configure jobs --time-to-live none --lock-delay 5s --max-hold 1d"), 0);
    assert_code(&run("lock b --signee one"), 0);
    assert_eq!(
        stdout(&run("tables")),
        "TABLE    LOCKS  DURATION  TIME TO LIVE     LOCK-DELAY  LONGEST HOLD\n\
         default  1      30s       1d after expiry  -           -\n\
         jobs     1      30s       none             5s          1d\n"
    );
    assert_eq!(document(&run("tables --json"))["tables"][1]["time_to_live_ms"], "none");
    assert_code(&run("unlock b --signee one"), 0);
    let kept = run("table delete jobs");
    assert_code(&kept, 2);
    assert!(stderr(&kept).contains("--yes"));
    assert_code(&run("table delete jobs --yes"), 0);
    assert_code(&run("check a --table jobs"), 1);
}

#[test]
fn a_list_shows_only_what_is_held_or_only_what_is_expired() {
    let server = Server::start();
    for (name, duration) in [("a", "1ms"), ("b", "10m"), ("c", "1ms"), ("d", "10m")] {
        let line = format!("lock {name} --signee one --duration {duration}");
        assert_code(&output(server.keyward(&line)), 0);
    }
    let names = |line: &str| {
        let page = document(&output(server.keyward(line)));
        let locks = page["locks"].as_array().unwrap().clone();
        let names = locks.iter().map(|lock| lock["signature"].as_str().unwrap().to_owned());
        (names.collect::<Vec<_>>().join(" "), page["next"].as_str().map(str::to_owned))
    };
    assert_eq!(names("list --held --json"), ("b d".to_owned(), None));
    assert_eq!(names("list --expired --json"), ("a c".to_owned(), None));
    assert_eq!(names("list --expired --limit 1 --json"), ("a".to_owned(), Some("a".to_owned())));
    assert_eq!(names("list --held --limit 1 --all --json"), ("b d".to_owned(), None));
    assert_code(&output(server.keyward("list --held --expired")), 2);
    let none = output(server.keyward("list --expired b"));
    assert!(stdout(&none).contains("no expired locks"), "{}", stdout(&none));
}

#[test]
fn long_lists_come_in_pages() {
    let server = Server::start();
    for name in ["a", "b", "c"] {
        server.take(name, "one", 0, false);
    }
    let run = |line: &str| output(server.keyward(line));
    let page = run("list --limit 2");
    assert!(stdout(&page).contains("--after 'b' for the next page"), "{}", stdout(&page));
    let page = document(&run("list --limit 2 --json"));
    assert_eq!(page["next"], "b");
    let all = document(&run("list --limit 2 --all --json"));
    assert_eq!(all["locks"].as_array().unwrap().len(), 3);
    assert_eq!(all.get("next"), None);
}

#[test]
fn a_cluster_that_does_not_answer_is_unavailable() {
    let mut server = Server::start();
    server.stop();
    let refused = output(server.keyward("lock a --signee one --timeout 300ms"));
    assert_code(&refused, 3);
    assert!(stderr(&refused).contains("Nothing was done"), "{}", stderr(&refused));
    let status = output(server.keyward("cluster status --timeout 300ms"));
    assert_code(&status, 3);
    assert!(stdout(&status).contains("unreachable"), "{}", stdout(&status));
}

#[test]
fn mistakes_are_told_before_anything_is_sent() {
    for (line, wrong) in [
        ("lock a", "--signee"),
        ("lock a --signee b --duration 30", "`30` has no unit"),
        ("lock a --signee b --level x", "a level is an integer"),
        ("lock a --signee b --token 0", "a token is an integer"),
        ("lock a --signee b --endpoints ftp://a", "KEYWARD_ENDPOINTS"),
        ("lock a --signee b --log =", "KEYWARD_LOG"),
        ("lock a --signee b --log inof", "`inof` is neither a level (error, warn, info"),
        ("serve --id 1 --members 1=[::1]:1 --data-dir x --log keywrd=info", "`keywrd` is neither"),
        ("lock a --signee b --wait 1", "`1` has no unit"),
        ("lock a --signee b --wait 367d", "at most 366d"),
        ("lock a --signee b --wait 1s --force", "cannot be used with"),
        ("lock a --signee b --wait 1s --token 1", "cannot be used with"),
        ("lock a --signee b --limit 0", "1..=65535"),
        ("lock a --signee b --limit 2 --shared", "cannot be used with"),
        ("lock a --signee b --session x", "32 hexadecimal digits"),
        ("lock a --signee b --wait --queued", "--session"),
        ("lock --wait a --signee b", "after the lock's name"),
        ("limit a 65536", "1..=65535"),
        ("verify a 0", "a token is an integer"),
        ("session keepalive x", "32 hexadecimal digits"),
        ("release a --cause c", "--token <TOKEN>|--place <PLACE>"),
        ("release a --token 1", "--cause"),
        ("release a --token 1 --place 1.0 --cause c", "cannot be used with"),
        ("release a --place 1 --cause c", "two decimal numbers"),
        ("unlock a --signee b --cause '\n'", "one line of up to 256 bytes"),
        ("list --limit 0", "1..=1000"),
    ] {
        let refused = output(keyward(line));
        assert_code(&refused, 2);
        assert!(stderr(&refused).contains(wrong), "{line}: {}", stderr(&refused));
    }
}

#[test]
fn serve_says_everything_that_is_wrong_with_its_settings() {
    let refused = output(keyward("serve --members 1=a:7421,2=b:7421 --id 3"));
    assert_code(&refused, 2);
    assert!(stderr(&refused).contains("id 3 is not among the members (1, 2)"));
    assert!(stderr(&refused).contains("the setting data_dir is missing"));

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keyward.toml");
    std::fs::write(&file, "id = 1\ndata-dir = 'x'\n").unwrap();
    let refused = output(keyward(&format!("serve --config {}", file.display())));
    assert_code(&refused, 2);
    let expected = format!("{}:2: unknown field `data-dir`, expected one of", file.display());
    assert!(stderr(&refused).contains(&expected), "{}", stderr(&refused));
}

#[test]
fn who_asks_too_often_is_told_so_and_when_to_come_back() {
    let address = Some(Rate { per_second: 1, burst: 1 });
    // The clock stands, so that nothing is paid for.
    let clock = Some(Arc::new(ManualClock::default()) as Arc<dyn Clock>);
    let server = Server::limited(Rates { address, identity: None, clock });
    let run = |line: &str| output(server.keyward(line));
    assert_code(&run("lock a --signee one"), 0);
    let refused = run("lock b --signee one --timeout 500ms");
    assert_code(&refused, 3);
    let told = stderr(&refused);
    assert!(told.contains("too many requests of this address"), "{told}");
    assert!(told.contains("Nothing was done") && told.contains("Try again in a second."), "{told}");
    let refused = run("lock b --signee one --timeout 500ms --json");
    assert_code(&refused, 3);
    let problem = document(&refused);
    assert_eq!(problem["code"], "too_many_requests");
    assert_eq!((&problem["status"], &problem["retry_after_ms"]), (&json!(429), &json!(900)));
    let refused = run("run b --timeout 500ms -- true");
    assert_code(&refused, 117);
    assert!(stderr(&refused).contains("Try again in a second."), "{}", stderr(&refused));
    assert!(server.record("b").is_none());
    assert_code(&run("unlock a --signee one"), 0);
}

#[test]
fn a_rate_that_is_none_is_refused() {
    for rate in ["0", "-1", "1.5", "100:", "100:0", ":5", "100:5:5", "5000000000", "+1"] {
        let refused = output(keyward(&format!("serve --address-rate={rate}")));
        assert_code(&refused, 2);
        assert!(stderr(&refused).contains("is not a rate"), "{rate}: {}", stderr(&refused));
    }
    let refused = output(keyward("serve --address-connections 0"));
    assert_code(&refused, 2);
}

#[test]
fn a_variable_wins_over_the_file_and_a_flag_over_both() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keyward.toml");
    std::fs::write(&file, "id = 10\nmembers = { 1 = 'a:1' }\ndata_dir = '/'\n").unwrap();
    let id = |arguments: &str, variable: Option<&str>| {
        let mut command = keyward(&format!("serve --config {} {arguments}", file.display()));
        command.envs(variable.map(|value| ("KEYWARD_ID", value)));
        let refused = output(command);
        assert_code(&refused, 2);
        stderr(&refused).split_whitespace().nth(2).unwrap_or_default().to_owned()
    };
    assert_eq!(id("", None), "10");
    assert_eq!(id("", Some("11")), "11");
    assert_eq!(id("--id 12", Some("11")), "12");
}

#[test]
fn the_suite_passes_on_memory() {
    let run = output(keyward("conformance"));
    assert_code(&run, 0);
    assert!(stdout(&run).ends_with(" passed, 0 failed\n"), "{}", stdout(&run));
    let run = output(keyward("conformance no-such-script"));
    assert_code(&run, 2);
}

#[test]
fn a_script_that_does_not_hold_is_shown() {
    let folder = tempfile::tempdir().unwrap();
    let script = "lock a one\n---\nthe moon\n";
    std::fs::write(folder.path().join("01-moon"), script).unwrap();
    let run = output(keyward(&format!("conformance --scripts {}", folder.path().display())));
    assert_code(&run, 1);
    assert!(stdout(&run).contains("-the moon"), "{}", stdout(&run));
}

#[test]
fn completion_is_for_this_program() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = output(keyward(&format!("completion {shell}")));
        assert_code(&script, 0);
        assert!(stdout(&script).contains("conformance"));
    }
}

#[test]
fn every_command_has_a_manual_page() {
    let folder = tempfile::tempdir().unwrap();
    let pages = folder.path().join("man/man1");
    let run = output(keyward(&format!("man {}", pages.display())));
    assert_code(&run, 0);
    let help = output(keyward("--help"));
    let mut commands: Vec<&str> = stdout(&help)
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty())
        // Continuation lines are indented further.
        .filter_map(|line| line.strip_prefix("  ").filter(|line| !line.starts_with(' ')))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|command| *command != "help")
        .collect();
    assert!(commands.len() > 12, "{commands:?}");
    commands.extend(["cluster-status", "table-configure", "table-delete"]);
    commands.extend(["session-open", "session-keepalive", "session-show", "session-close"]);
    commands.extend(["cert-ca", "cert-node", "cert-client"]);
    commands.extend(["access-bootstrap", "access-enable", "access-disable", "access-whoami"]);
    commands.extend(["access-can-i", "access-token", "access-token-create", "access-token-list"]);
    commands.extend(["access-token-revoke", "access-rule", "access-rule-add"]);
    commands.extend(["access-rule-remove", "access-rule-list"]);
    let names = commands.iter().map(|command| format!("keyward-{command}"));
    for name in names.chain(["keyward".to_owned()]) {
        let path = pages.join(format!("{name}.1"));
        assert!(stdout(&run).contains(&format!("{}\n", path.display())), "{name}");
        let page = std::fs::read_to_string(&path).unwrap();
        assert!(page.contains(&format!(".TH {name} 1")), "{name}: {page}");
        assert!(page.contains(".SH SYNOPSIS"), "{name}: {page}");
    }
    let page = std::fs::read_to_string(pages.join("keyward-run.1")).unwrap();
    for section in ["EXAMPLES", "EXIT CODES", "SIGNALS"] {
        assert!(page.contains(&format!(".SH {section}\n.nf\n")), "{section}: {page}");
    }
    let written = pages.read_dir().unwrap().count();
    assert_eq!(written, commands.len() + 1, "none of a hidden command, nor of `help`");
    let refused = output(keyward("man /dev/null/man"));
    assert_code(&refused, 2);
}

#[test]
fn a_new_lock_is_refused_to_its_own_owner() {
    let server = Server::start();
    let run = |line: &str| output(server.keyward(line));
    assert_code(&run("lock a --signee h --new --duration 1h"), 0);
    let again = run("lock a --signee h --new --duration 2h");
    assert_code(&again, 1);
    assert!(stderr(&again).contains("a is held already by h"), "{}", stderr(&again));
    let problem = document(&run("lock a --signee h --new --json"));
    assert_eq!(
        (&problem["code"], &problem["holders"][0]["signee"]),
        (&json!("forbidden"), &json!("h"))
    );
    // Not even renewed.
    let left = document(&run("check a --json"))["holders"][0]["expires_in_ms"].as_u64().unwrap();
    assert!(left <= 3_600_000, "{left}");
    assert_code(&run("lock a --signee h --duration 1h"), 0);
    assert_code(&run("lock a --signee other --new"), 1);
    assert_code(&run("lock a --signee h --new --force"), 2);
}

#[test]
fn what_cannot_be_written_is_an_error() {
    let server = Server::start();
    let full = || std::fs::File::options().write(true).open("/dev/full").unwrap();
    for line in [
        "lock a --signee one",
        "lock a --signee one --json",
        "check a",
        "list",
        "tables",
        "show a",
        "verify a 1 --json",
        "deadlocks",
        "session open --signee one",
        "unlock a --signee one",
        "conformance locks --json",
        "completion bash",
        "--help",
        "--version",
    ] {
        let mut command = server.keyward(line);
        if line.starts_with("conformance") {
            command.env_remove("KEYWARD_ENDPOINTS");
        }
        let run = command.stdout(full()).stderr(std::process::Stdio::piped()).spawn().unwrap();
        let run = run.wait_with_output().unwrap();
        assert_eq!(run.status.code(), Some(74), "{line}: {}", stderr(&run));
    }
    // A failure has its own exit code.
    let refused = server.keyward("check nosuch --json").stdout(full()).status().unwrap();
    assert_eq!(refused.code(), Some(1));
}

#[test]
fn a_wrong_command_line_is_a_document_for_a_program() {
    for line in [
        "lock a --json",
        "lock a --signee b --duration 30 --json",
        "lock a --signee b --json --endpoints ftp://a",
        "table delete a --json",
        "lock a --signee b --json --log =",
        "inspect /nosuch/folder --json",
    ] {
        let refused = output(keyward(line));
        assert_code(&refused, 2);
        assert_eq!(document(&refused)["code"], "bad_request", "{line}");
        assert_ne!(stderr(&refused), "", "{line}");
    }
    let detail = document(&output(keyward("lock a --json")))["detail"].clone();
    assert!(detail.as_str().unwrap().contains("--signee"), "it says what is missing: {detail}");
    // A `--json` among the arguments of the command that is run is not Keyward's option.
    let run = output(keyward("run a --endpoints ftp://a -- echo --json"));
    assert_code(&run, 2);
    assert_eq!(stdout(&run), "");
}

#[test]
fn a_variable_that_is_wrong_is_named_and_one_that_is_empty_is_not_there() {
    let with = |name: &str, value: &str, line: &str| {
        let mut command = keyward(line);
        command.env(name, value);
        output(command)
    };
    let wrong = with("KEYWARD_ID", "abc", "serve");
    assert_code(&wrong, 2);
    assert!(stderr(&wrong).contains("KEYWARD_ID"), "{}", stderr(&wrong));
    assert!(stderr(&wrong).contains("a whole number from 1"), "{}", stderr(&wrong));
    let wrong = with("KEYWARD_ID", "7", "serve --id abc");
    assert!(!stderr(&wrong).contains("KEYWARD_ID"), "{}", stderr(&wrong));
    let wrong = with("KEYWARD_CONFIG", "/nosuch/file", "serve");
    assert!(stderr(&wrong).contains("KEYWARD_CONFIG"), "{}", stderr(&wrong));
    let wrong = with("KEYWARD_TIMEOUT", "5", "check a --json");
    assert!(stdout(&wrong).contains("KEYWARD_TIMEOUT"), "{}", stdout(&wrong));

    let server = Server::start();
    for name in ["KEYWARD_INSTANCE", "KEYWARD_TABLE", "KEYWARD_TIMEOUT", "KEYWARD_LOG"] {
        let mut command = server.keyward("lock a --signee q");
        command.env(name, "");
        assert_code(&output(command), 0);
    }
    assert_eq!(server.holder("a").as_deref(), Some("q"));
    assert!(stderr(&with("KEYWARD_SIGNEE", "", "lock a")).contains("--signee"));
    assert!(stderr(&with("KEYWARD_CONFIG", "", "serve")).contains("the setting id is missing"));
}

#[test]
fn a_table_that_is_not_there_is_not_deleted() {
    let server = Server::start();
    let run = |line: &str| output(server.keyward(line));
    let missing = run("table delete nosuch --yes");
    assert_code(&missing, 1);
    assert!(stderr(&missing).contains("there is no table nosuch"), "{}", stderr(&missing));
    let told = document(&run("table delete nosuch --yes --json"));
    assert_eq!(told, json!({ "status": "no_table" }));
    assert_code(&run("lock a --signee one --table there"), 0);
    assert_code(&run("table delete there --yes"), 0);
}

#[test]
fn endpoints_are_read_as_people_write_them() {
    let server = Server::start();
    let port = server.address.port();
    for endpoints in [
        format!("http://127.0.0.1:{port},"),
        format!("127.0.0.1:{port}"),
        // The first of its addresses may have no listener.
        format!("http://localhost:{port}"),
    ] {
        let line = format!("lock a --signee one --endpoints {endpoints}");
        assert_code(&output(keyward(&line)), 0);
    }
    let dead = ["http://127.0.0.1:1", "http://127.0.0.1:2"];
    let line = format!("check a --timeout 200ms --endpoints {}", dead.join(","));
    let refused = output(keyward(&line));
    assert_code(&refused, 3);
    for endpoint in dead {
        assert!(stderr(&refused).contains(endpoint), "{}", stderr(&refused));
    }
}
