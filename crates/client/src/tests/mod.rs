//! The client against nodes that follow a script, and the guard on a clock of the test.

mod attempts;
mod batches;
mod calls;
mod guards;
mod sessions;
mod waiting;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;

/// The reaction of a scripted node to one request.
#[derive(Clone, Debug)]
pub(super) enum Step {
    /// Answers with a status, a media type, further header lines and a body.
    Answer(u16, &'static str, String, String),
    /// Reads the request whole and closes the connection.
    Cut,
    /// Sends half of an answer and closes the connection.
    Half,
    /// Never answers.
    Hang,
    /// Grants each lock of a batch, with the number in its signature as the token, and releases
    /// each.
    Each,
    /// Does the step once the semaphore lets it.
    Once(Arc<Semaphore>, Box<Step>),
}

impl Step {
    pub(super) fn json(body: &str) -> Self {
        let position = "keyward-log-position: 7.1\r\n".to_owned();
        Self::Answer(200, "application/json", position, body.to_owned())
    }

    pub(super) fn problem(status: u16, code: &str, more: &str) -> Self {
        let body = format!(
            r#"{{"type":"urn:keyward:problem:{code}","title":"t","status":{status},"code":"{code}","detail":"d"{more}}}"#
        );
        Self::Answer(status, "application/problem+json", String::new(), body)
    }

    pub(super) fn when(let_through: &Arc<Semaphore>, step: Self) -> Self {
        Self::Once(Arc::clone(let_through), Box::new(step))
    }

    pub(super) fn granted() -> Self {
        Self::json(r#"{"status":"ok","token":3,"level":0,"expires_in_ms":30000,"live":true}"#)
    }
}

/// A node that follows a script, and records its requests.
pub(super) struct Node {
    pub(super) address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
    task: AbortHandle,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Node {
    /// Starts a node. The last step is repeated for ever.
    pub(super) async fn start(script: impl IntoIterator<Item = Step>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let script = Arc::new(Mutex::new(script.into_iter().collect::<VecDeque<_>>()));
        let asked = Arc::<Mutex<Vec<String>>>::default();
        let told = Arc::clone(&asked);
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(follow(stream, Arc::clone(&script), Arc::clone(&told)));
            }
        });
        Self { address, asked, task: task.abort_handle() }
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The requests so far, heads and bodies.
    pub(super) fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }

    /// The request ids of the bodies so far.
    pub(super) fn request_ids(&self) -> Vec<String> {
        let id_of = |request: &String| {
            let (_, rest) = request.split_once(r#""request_id":""#).unwrap();
            rest.split('"').next().unwrap().to_owned()
        };
        self.asked().iter().map(id_of).collect()
    }
}

/// An address that refuses connections.
pub(super) async fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

async fn follow(
    mut stream: TcpStream,
    script: Arc<Mutex<VecDeque<Step>>>,
    asked: Arc<Mutex<Vec<String>>>,
) {
    while let Some(request) = read_request(&mut stream).await {
        asked.lock().unwrap().push(request.clone());
        let step = {
            let mut script = script.lock().unwrap();
            if script.len() > 1 { script.pop_front() } else { script.front().cloned() }
        };
        let mut step = step.unwrap();
        while let Step::Once(let_through, then) = step {
            let_through.acquire().await.unwrap().forget();
            step = *then;
        }
        if let Step::Each = step {
            step = each(&request);
        }
        match step {
            Step::Answer(status, media_type, headers, body) => {
                let answer = format!(
                    "HTTP/1.1 {status} x\r\ncontent-type: {media_type}\r\n{headers}\
                     content-length: {}\r\n\r\n{body}",
                    body.len()
                );
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
            Step::Cut => return,
            Step::Half => {
                let half = b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{\"stat";
                return stream.write_all(half).await.unwrap();
            }
            Step::Hang => std::future::pending().await,
            Step::Each | Step::Once(..) => unreachable!("they stand for other steps"),
        }
    }
}

/// The answer to a batch, or to one lock, that grants everything.
fn each(request: &str) -> Step {
    let (_, body) = request.split_once("\r\n\r\n").unwrap();
    let body: serde_json::Value = serde_json::from_str(body).unwrap();
    let granted = |lock: &serde_json::Value| {
        let token: u64 = lock["signature"].as_str().unwrap()[1..].parse().unwrap();
        json!({"status": "ok", "token": token, "level": 0, "expires_in_ms": 30000, "live": true})
    };
    let Some(requests) = body["requests"].as_array() else {
        return Step::json(&granted(&body).to_string());
    };
    let answer = |request: &serde_json::Value| match request.get("lock") {
        Some(lock) => json!({"lock": granted(lock), "log_position": "7.1"}),
        None => json!({"unlock": {"status": "ok"}, "log_position": "7.2"}),
    };
    let answers: Vec<_> = requests.iter().map(answer).collect();
    Step::json(&json!({"answers": answers}).to_string())
}

async fn read_request(stream: &mut TcpStream) -> Option<String> {
    let mut read = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&read);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            if body.len() >= length.map_or(0, |length| length.parse().unwrap()) {
                return Some(text.into_owned());
            }
        }
        let mut bytes = [0; 4096];
        match stream.read(&mut bytes).await {
            Ok(0) | Err(_) => return None,
            Ok(count) => read.extend_from_slice(&bytes[..count]),
        }
    }
}
