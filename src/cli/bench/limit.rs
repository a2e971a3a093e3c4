//! The limit of HTTP alone: a bare handler that reads the same JSON as a node and answers at once.
//!
//! It runs as a process of its own, as nodes do, and ends when the pipe to it is closed, so that it
//! does not outlive its parent.

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};

use axum::Router;
use axum::extract::{Json, Query};
use axum::routing::{get, post};
use axum::serve::ListenerExt as _;

use super::nodes::NodeProcess;
use crate::api::{
    CheckAnswer, CheckQuery, LockAnswer, LockBody, LockStatusWord, UnlockAnswer, UnlockBody,
    UnlockStatusWord, routes,
};
use crate::cli::exit::{self, Failure, Outcome};
use crate::cli::member::listener;
use crate::cli::output;

/// The hidden command that serves.
pub(crate) const COMMAND: &str = "bench-limit";

/// The bare handler, running.
pub(super) struct Limit {
    child: Child,
    address: SocketAddr,
}

impl Limit {
    /// Starts it on a free port.
    ///
    /// # Errors
    /// This program cannot be started once more.
    pub(super) fn start() -> Result<Self, Failure> {
        let broken = |why: &dyn std::fmt::Display| {
            Failure::new(exit::BROKEN, format!("cannot start the bare handler: {why}"))
        };
        let program = std::env::current_exe().map_err(|error| broken(&error))?;
        let mut child = Command::new(program)
            .arg(COMMAND)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| broken(&error))?;
        let mut line = String::new();
        let stdout = child.stdout.take().expect("it is piped");
        BufReader::new(stdout).read_line(&mut line).map_err(|error| broken(&error))?;
        let address = line.trim().parse().map_err(|_| broken(&format!("it says {line:?}")))?;
        Ok(Self { child, address })
    }

    /// The URL that it listens on.
    pub(super) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Its process.
    pub(super) fn node(&self) -> NodeProcess {
        NodeProcess { name: "bare handler".to_owned(), leads: false, pid: self.child.id() }
    }
}

impl Drop for Limit {
    fn drop(&mut self) {
        // It may have ended already, which is fine.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Serves until standard input is closed.
pub(crate) fn run() -> Outcome {
    let broken = |error: std::io::Error| Failure::new(exit::BROKEN, error.to_string());
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(broken)?;
    runtime.block_on(async {
        let listener = listener((Ipv4Addr::LOCALHOST, 0).into()).map_err(broken)?;
        output::print(&format!("{}\n", listener.local_addr().map_err(broken)?));
        let listener = listener.tap_io(|stream| {
            // If this fails, answers are only slower.
            let _ = stream.set_nodelay(true);
        });
        let closed = tokio::task::spawn_blocking(|| {
            // The end of the input, or any error, ends the server.
            let _ = std::io::stdin().read_to_end(&mut Vec::new());
        });
        tokio::select! {
            served = async { axum::serve(listener, router()).await } => served.map_err(broken),
            _ = closed => Ok(()),
        }
    })?;
    Ok(exit::OK)
}

fn router() -> Router {
    Router::new()
        .route(routes::LOCK, post(lock).merge(get(check)))
        .route(routes::UNLOCK, post(unlock))
}

async fn lock(Json(body): Json<LockBody>) -> Json<LockAnswer> {
    let renewal = body.token.is_some();
    Json(LockAnswer {
        status: if renewal { LockStatusWord::Renewed } else { LockStatusWord::Ok },
        token: 1,
        level: 0,
        expires_in_ms: body.duration_ms.unwrap_or(30_000),
        removed_in_ms: None,
        live: true,
        previous_signee: None,
        reason: None,
        mode: None,
        slot: None,
        valid_ms: None,
    })
}

async fn unlock(Json(body): Json<UnlockBody>) -> Json<UnlockAnswer> {
    let status =
        if body.signature.is_empty() { UnlockStatusWord::NoLock } else { UnlockStatusWord::Ok };
    Json(UnlockAnswer { status, left: false })
}

async fn check(Query(query): Query<CheckQuery>) -> Json<CheckAnswer> {
    Json(CheckAnswer {
        signature: query.signature,
        holders: Vec::new(),
        table: None,
        limit: None,
        more_holders: 0,
        waiting: 0,
        places: Vec::new(),
    })
}
