//! The operations of `/v1` as they look from outside.

use std::time::Duration;

use serde_json::json;

use super::{Ask, Server};

const LOCK: &str = "/v1/lock";

#[tokio::test]
async fn a_lock_is_granted_renewed_refused_and_released() {
    let (server, clock) = Server::memory().await;
    let mine = r#"{"signature":"jobs/nightly","signee":"worker-1","duration_ms":30000}"#;
    let told = server.send("POST", LOCK, mine).await;
    assert_eq!(told.status, 200);
    assert_eq!(told.header("content-type"), "application/json");
    assert_eq!(told.header("cache-control"), "no-store");
    assert!(told.header("keyward-log-position").contains('.'), "{told:?}");
    let granted = told.json();
    let token = granted["token"].as_u64().unwrap();
    let expected = json!({
        "status": "ok", "token": token, "level": 0, "expires_in_ms": 30000,
        "removed_in_ms": 86_430_000, "live": true, "mode": "exclusive", "valid_ms": 30000
    });
    assert_eq!(granted, expected);

    clock.advance(Duration::from_micros(17_999_001));
    let theirs = r#"{"signature":"jobs/nightly","signee":"worker-2"}"#;
    let told = server.send("POST", LOCK, theirs).await;
    told.assert_problem(423, "forbidden", "another holds the lock");
    assert!(told.header("keyward-log-position").contains('.'), "{told:?}");
    let left = told.json()["holders"][0]["expires_in_ms"].as_u64().unwrap();
    assert!(left < 30_000 - 17_000 && left > 11_000, "{left} ms left, rounded down");
    assert_eq!(told.json()["reason"], "held");
    assert_eq!(told.json()["holders"][0]["signee"], "worker-1");

    let renewed = server.send("POST", LOCK, mine).await.json();
    assert_eq!((&renewed["status"], &renewed["token"]), (&json!("renewed"), &json!(token)));

    let forced = r#"{"signature":"jobs/nightly","signee":"worker-2","force":true,"level":-3}"#;
    let forced = server.send("POST", LOCK, forced).await.json();
    assert_eq!(forced["status"], "transferred");
    assert_eq!(
        (&forced["previous_signee"], &forced["reason"]),
        (&json!("worker-1"), &json!("forced"))
    );
    assert_eq!(forced["level"], -3);
    assert!(forced["token"].as_u64().unwrap() > token);

    let late = format!(r#"{{"signature":"jobs/nightly","signee":"worker-1","token":{token}}}"#);
    let told = server.send("POST", LOCK, &late).await;
    assert_eq!((told.status, &told.json()["reason"]), (423, &json!("lost")));
    let told = server.send("POST", "/v1/unlock", &late).await;
    told.assert_problem(423, "forbidden", "");

    let release = r#"{"signature":"jobs/nightly","signee":"worker-2"}"#;
    let told = server.send("POST", "/v1/unlock", release).await;
    assert_eq!((told.status, told.json()), (200, json!({"status": "ok"})));
    assert!(told.header("keyward-log-position").contains('.'), "{told:?}");
    let told = server.send("POST", "/v1/unlock", release).await;
    assert_eq!((told.status, told.json()), (200, json!({"status": "no_lock"})));
    server.stop().await;
}

#[tokio::test]
async fn a_repeated_request_is_answered_the_same_and_says_when_its_grant_is_gone() {
    let (server, _) = Server::memory().await;
    let id = "0123456789abcdef0123456789abcdef";
    let lock = format!(r#"{{"signature":"a","signee":"x","request_id":"{id}-1"}}"#);
    let first = server.send("POST", LOCK, &lock).await.json();
    assert_eq!(server.send("POST", LOCK, &lock).await.json()["token"], first["token"]);
    server.send("POST", "/v1/unlock", r#"{"signature":"a","signee":"x"}"#).await;
    let repeated = server.send("POST", LOCK, &lock).await.json();
    assert_eq!(repeated["token"], first["token"]);
    assert_eq!((&repeated["live"], &repeated["expires_in_ms"]), (&json!(false), &json!(0)));
    let next = lock.replace("-1", "-2");
    assert_eq!(server.send("POST", LOCK, &next).await.status, 200);
    server.send("POST", LOCK, &lock).await.assert_problem(400, "bad_request", "");
}

#[tokio::test]
async fn a_request_that_continues_a_lane_which_is_not_remembered_is_refused_by_a_code_of_its_own() {
    let (server, _) = Server::memory().await;
    let id = "0123456789abcdef0123456789abcdef";
    let lock = format!(r#"{{"signature":"a","signee":"x","request_id":"{id}-2"}}"#);
    let told = server.send("POST", LOCK, &lock).await;
    told.assert_problem(409, "lane_forgotten", "beginning with 1");
    assert_eq!(server.get("/v1/lock?signature=a").await.status, 404, "nothing was done");
    let first = lock.replace("-2", "-1");
    assert_eq!(server.send("POST", LOCK, &first).await.status, 200);
}

#[tokio::test]
async fn records_are_read_one_by_one_and_in_pages() {
    let (server, _) = Server::memory().await;
    for name in ["b/2", "a/1", "b/é", "b/1 &+%"] {
        let body = json!({"signature": name, "signee": "w", "time_to_live_ms": 90_000});
        assert_eq!(server.send("POST", LOCK, &body.to_string()).await.status, 200);
    }
    let told = server.get("/v1/lock?signature=b/1%20%26%2B%25").await;
    assert_eq!(told.status, 200, "{told:?}");
    assert!(told.header("keyward-log-position").ends_with(".4294967295"), "{told:?}");
    let holder = &told.json()["holders"][0];
    assert_eq!(holder["signee"], "w");
    assert_eq!((&holder["expired"], &holder["removed_in_ms"]), (&json!(false), &json!(90_000)));
    assert_eq!(server.get("/v1/lock?signature=b/1%20%26%2b%25").await.status, 200);
    assert_eq!(server.get("/v1/lock?signature=b/%C3%A9&stale=true").await.status, 200);

    let told = server.get("/v1/lock?signature=nowhere").await;
    told.assert_problem(404, "not_found", "no such lock");
    assert!(told.header("keyward-log-position").contains('.'), "{told:?}");

    let page = server.get("/v1/locks?prefix=b/&limit=2").await.json();
    let names: Vec<_> =
        page["locks"].as_array().unwrap().iter().map(|lock| &lock["signature"]).collect();
    assert_eq!(names, ["b/1 &+%", "b/2"]);
    assert_eq!(page["next"], "b/2");
    let page = server.get("/v1/locks?prefix=b/&limit=2&after=b/2").await.json();
    assert_eq!(page["locks"][0]["signature"], "b/é");
    assert!(page.get("next").is_none(), "{page}");
}

#[tokio::test]
async fn tables_are_configured_listed_and_deleted() {
    let (server, _) = Server::memory().await;
    let told = server.send("PUT", "/v1/table", r#"{"table":"t","duration_ms":1234}"#).await;
    assert_eq!((told.status, told.json()), (200, json!({"status": "ok"})));
    let lock = r#"{"signature":"a","signee":"x","table":"t"}"#;
    assert_eq!(server.send("POST", LOCK, lock).await.json()["expires_in_ms"], 1234);
    let tables = server.get("/v1/tables").await.json();
    let row = tables["tables"].as_array().unwrap().iter().find(|row| row["table"] == "t").unwrap();
    assert_eq!((&row["duration_ms"], &row["locks"]), (&json!(1234), &json!(1)));
    assert_eq!(server.get("/v1/lock?signature=a").await.status, 404, "tables are apart");
    let told =
        server.ask(Ask { method: "DELETE", path: "/v1/table?table=t", ..Ask::default() }).await;
    assert_eq!((told.status, told.json()), (200, json!({"status": "ok"})));
    assert_eq!(server.get("/v1/lock?signature=a&table=t").await.status, 404);
    let told = server.ask(Ask { method: "DELETE", path: "/v1/table", ..Ask::default() }).await;
    told.assert_problem(400, "bad_request", "table");
    let told = server.send("PUT", "/v1/table", r#"{"duration_ms":1234}"#).await;
    told.assert_problem(400, "bad_request", r#""table":"default""#);
    let told = server.send("PUT", "/v1/table", r#"{"table":null,"duration_ms":1234}"#).await;
    told.assert_problem(400, "bad_request", r#""table":"default""#);
    assert_eq!(server.get("/v1/tables").await.json()["tables"], json!([]), "nothing is configured");
    let path = "/v1/table?table=t";
    let told = server.ask(Ask { method: "DELETE", path, ..Ask::default() }).await;
    assert_eq!((told.status, told.json()), (200, json!({"status": "no_table"})));
}

#[tokio::test]
async fn none_as_a_time_to_live_keeps_a_record_for_ever() {
    let (server, _clock) = Server::memory().await;
    let lock = r#"{"signature":"a","signee":"x","table":"t"}"#;
    let day = server.send("POST", LOCK, lock).await.json();
    assert_eq!(day["removed_in_ms"], json!(86_430_000));
    let none = r#"{"signature":"b","signee":"x","table":"t","time_to_live_ms":"none"}"#;
    assert_eq!(server.send("POST", LOCK, none).await.json().get("removed_in_ms"), None);
    let table = r#"{"table":"t","time_to_live_ms":"none"}"#;
    assert_eq!(server.send("PUT", "/v1/table", table).await.status, 200);
    let tables = server.get("/v1/tables").await.json();
    assert_eq!(tables["tables"], json!([{"table": "t", "time_to_live_ms": "none", "locks": 2}]));
    assert_eq!(server.send("POST", LOCK, lock).await.json().get("removed_in_ms"), None);
    for wrong in [r#""never""#, r#""None""#, r#""""#, "true", "-1", "1.5", "[]", "0"] {
        let body = format!(r#"{{"signature":"a","signee":"x","time_to_live_ms":{wrong}}}"#);
        server.send("POST", LOCK, &body).await.assert_problem(400, "bad_request", "");
    }
}

#[tokio::test]
async fn a_list_is_of_the_state_that_it_asks_for() {
    let (server, clock) = Server::memory().await;
    for (name, ms) in [("a", 1_000), ("b", 60_000)] {
        let body = json!({"signature": name, "signee": "w", "duration_ms": ms});
        server.send("POST", LOCK, &body.to_string()).await;
    }
    clock.advance(Duration::from_secs(1));
    for (state, name) in [("held", "b"), ("expired", "a")] {
        let page = server.get(&format!("/v1/locks?state={state}")).await.json();
        assert_eq!(page["locks"].as_array().unwrap().len(), 1, "{page}");
        assert_eq!(page["locks"][0]["signature"], name);
    }
    for query in ["state=", "state=Held", "state=all", "state=held&state=held"] {
        let told = server.get(&format!("/v1/locks?{query}")).await;
        told.assert_problem(400, "bad_request", "");
    }
    server.get("/v1/locks?held=true").await.assert_problem(400, "unknown_field", "`held`");
}

#[tokio::test]
async fn a_request_id_may_be_a_uuid_and_may_come_as_a_header() {
    let (server, _) = Server::memory().await;
    let body = r#"{"signature":"a","signee":"b"}"#;
    let uuid = "0190b3a8-1c2d-7e3f-8a4b-5c6d7e8f9a0b";
    let ask = |key: &str| {
        let (server, key) = (&server, key.to_owned());
        async move {
            let headers = &[("content-type", "application/json"), ("idempotency-key", &*key)];
            let body = Some(body.as_bytes());
            server.ask(Ask { method: "POST", path: LOCK, headers, body }).await
        }
    };
    let first = ask(uuid).await;
    let again = ask("\"0190B3A8-1C2D-7E3F-8A4B-5C6D7E8F9A0B\"").await;
    let position = |told: &super::Told| told.header("keyward-log-position").to_owned();
    assert_eq!((first.status, position(&first)), (200, position(&again)), "answered once");
    let named = format!(r#"{{"signature":"a","signee":"b","request_id":"{uuid}"}}"#);
    assert_eq!(position(&server.send("POST", LOCK, &named).await), position(&first));
    let lane = "0190b3a81c2d7e3f8a4b5c6d7e8f9a0b-1";
    assert_eq!(position(&ask(lane).await), position(&first), "the same, spelt as a lane");
    let other = named.replace(uuid, "0190b3a8-1c2d-7e3f-8a4b-5c6d7e8f9a0c");
    let headers = &[("content-type", "application/json"), ("idempotency-key", uuid)];
    let request = Ask { method: "POST", path: LOCK, headers, body: Some(other.as_bytes()) };
    server.ask(request).await.assert_problem(400, "bad_request", "differ");
    for wrong in ["", "abc", "\"", &uuid[1..], "0190b3a8-1c2d-7e3f-8a4b-5c6d7e8f9a0b-1"] {
        ask(Box::leak(wrong.to_owned().into_boxed_str())).await.assert_problem(
            400,
            "bad_request",
            "UUID",
        );
    }
    let batch = br#"{"requests":[]}"#;
    let request = Ask { method: "POST", path: "/v1/batch", headers, body: Some(batch) };
    server.ask(request).await.assert_problem(400, "bad_request", "each of its requests");
}

#[tokio::test]
async fn numbers_and_nulls_are_read_as_json_means_them() {
    let (server, _) = Server::memory().await;
    let body = r#"{"signature":"a","signee":"b","duration_ms":30000.0,"level":1e1,"force":null,
        "token":null,"time_to_live_ms":null,"instance":null,"table":null,"request_id":null}"#;
    let told = server.send("POST", LOCK, body).await;
    assert_eq!((told.status, &told.json()["level"]), (200, &json!(10)), "{told:?}");
}

#[tokio::test]
async fn in_a_session_the_signee_may_be_left_out_and_each_owner_has_its_own_news() {
    let (server, clock) = Server::memory().await;
    let open = r#"{"ttl_ms":10000,"signee":"worker-1"}"#;
    let session = server.send("POST", "/v1/sessions", open).await.json()["session"].clone();
    let lock = |rest: &str| format!(r#"{{"signature":"a","session":{session}{rest}}}"#);
    let told = server.send("POST", LOCK, &lock("")).await;
    assert_eq!(told.status, 200, "{told:?}");
    let granted = told.json();
    assert_eq!((&granted["mode"], &granted["valid_ms"]), (&json!("exclusive"), &json!(10_000)));
    let verify = format!(r#"{{"signature":"a","token":{}}}"#, granted["token"]);
    let verified = server.send("POST", "/v1/verify", &verify).await.json();
    assert_eq!((&verified["live"], &verified["valid_ms"]), (&json!(true), &json!(10_000)));
    assert_eq!(verified["holder"]["signee"], "worker-1");
    assert_eq!(verified["holder"]["mode"], "exclusive");

    for (instance, wait_ms) in [("1", 9000), ("2", 1000)] {
        let waits = format!(
            r#","signee":"w","instance":"{instance}","wait_ms":{wait_ms},"respond":"queued""#
        );
        assert_eq!(server.send("POST", LOCK, &lock(&waits)).await.status, 202);
    }
    clock.advance(Duration::from_secs(1));
    let mine = format!(r#"{{"signature":"a","signee":"worker-1","instance":{session}}}"#);
    assert_eq!(server.send("POST", "/v1/unlock", &mine).await.json()["status"], "ok");
    let keep = format!(r#"{{"sessions":[{{"session":{session}}}]}}"#);
    let kept = server.send("POST", "/v1/sessions/keepalive", &keep).await.json();
    let news = kept["sessions"][0]["inbox"].as_array().unwrap().iter();
    let news = news.map(|item| [&item["signee"], &item["instance"], &item["kind"]]);
    let (ended, granted) = (["w", "2", "ended"], ["w", "1", "granted"]);
    assert!(news.eq([ended, granted]), "{kept}");

    let without = server.send("POST", LOCK, r#"{"signature":"b"}"#).await;
    without.assert_problem(400, "bad_request", "signee");
    let gone = server.send("POST", "/v1/verify", r#"{"signature":"b","token":7}"#).await.json();
    assert_eq!(gone, json!({"live": false, "valid_ms": 0}));
}

#[tokio::test]
async fn an_answer_is_held_until_the_turn_has_come_or_the_time_of_the_call_is_over() {
    let (server, _) = Server::memory().await;
    let mine = r#"{"signature":"a","signee":"worker-1"}"#;
    assert_eq!(server.send("POST", LOCK, mine).await.status, 200);
    let theirs = format!(
        r#"{{"signature":"a","signee":"worker-2","wait_ms":20000,"request_id":"{}-1"}}"#,
        "7".repeat(32)
    );
    let waits = async |timeout_ms: &str| {
        let headers = &[("content-type", "application/json"), ("Keyward-Timeout-Ms", timeout_ms)];
        let body = Some(theirs.as_bytes());
        server.ask(Ask { method: "POST", path: LOCK, headers, body }).await
    };
    let told = waits("100").await;
    assert_eq!((told.status, &told.json()["status"]), (202, &json!("waiting")), "{told:?}");
    let unlock = async { server.send("POST", "/v1/unlock", mine).await };
    let (told, released) = tokio::join!(waits("9000"), unlock);
    assert_eq!(released.json()["status"], "ok");
    assert_eq!((told.status, &told.json()["status"]), (200, &json!("ok")), "{told:?}");

    let wait = r#"{"lock":{"signature":"a","signee":"worker-3","wait_ms":1}}"#;
    let batch = format!(r#"{{"requests":[{wait}]}}"#);
    let answers = server.send("POST", "/v1/batch", &batch).await.json();
    assert_eq!(answers["answers"][0]["problem"]["code"], "bad_request", "{answers}");
}
