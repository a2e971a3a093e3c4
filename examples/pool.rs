//! A pool of workers under permits: on all machines together, no more than three work at a time.
//!
//! The permits live in a session, so one keep-alive holds all of those of this program. Each has a
//! slot, which says *which* of the three things it stands for: a GPU, a licence, a connection.
//!
//! `keyward dev -- cargo run --example pool` starts three nodes for it.

use std::time::Duration;

use keyward_client::{Acquire, Client, OpenSession, Permit, Semaphore};

/// The number of workers at a time, on all machines together.
const LIMIT: u32 = 3;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let endpoints = std::env::var("KEYWARD_ENDPOINTS");
    let endpoints = endpoints.as_deref().unwrap_or("http://127.0.0.1:7420");
    let client = Client::builder().endpoints(endpoints.split(',')).build()?;

    let session = client.session(OpenSession::new("machine-1")).await?;
    let permits = Semaphore::in_session(&session, Acquire::new("gpus", ""), LIMIT);
    let mut workers = tokio::task::JoinSet::new();
    for number in 1..=8 {
        let permits = permits.clone();
        workers.spawn(async move {
            let permit = permits.acquire().await?;
            work(number, permit).await
        });
    }
    while let Some(worker) = workers.join_next().await {
        worker??;
    }
    session.close().await?;
    Ok(())
}

/// Does one piece of work with the thing that the permit stands for.
async fn work(number: u32, permit: Permit<Client>) -> Result<(), keyward_client::Error> {
    let (slot, token) = (permit.slot(), permit.token());
    let step = async {
        println!("worker {number} has slot {slot} under token {token}");
        tokio::time::sleep(Duration::from_secs(1)).await;
    };
    match permit.guarded(step).await {
        Ok(()) => permit.release().await.map(|_| ()),
        Err(reason) => {
            println!("worker {number} stops: {}", reason.describe());
            Ok(())
        }
    }
}
