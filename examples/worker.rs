//! A worker that does something under a lock, step by step, until it is done or the lock is lost.
//!
//! `keyward dev -- cargo run --example worker` starts three nodes for it.

use std::time::Duration;

use keyward_client::{Acquire, Client};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let endpoints = std::env::var("KEYWARD_ENDPOINTS");
    let endpoints = endpoints.as_deref().unwrap_or("http://127.0.0.1:7420");
    let client = Client::builder().endpoints(endpoints.split(',')).build()?;

    let guard = client.acquire(Acquire::new("jobs/nightly", "worker-1")).await?;
    tokio::select! {
        // Dropped in the middle of a step when the lock is lost: nothing more is done without it.
        () = work(guard.token().0) => println!("done"),
        reason = guard.lost() => println!("the lock is lost, nothing more is done: {reason:?}"),
    }
    guard.release().await?;
    Ok(())
}

/// Does the work. The token goes along with every access to the guarded resource, which refuses
/// smaller ones.
async fn work(token: u64) {
    for step in 1..=5 {
        println!("step {step} under token {token}");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}
