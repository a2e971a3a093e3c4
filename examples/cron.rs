//! A job that runs once in a period, on whichever machine comes first.
//!
//! Each machine runs this program at the same times. The first acquires the lock of the job, does the
//! work under it, and lets the lock expire at the end of the period instead of releasing it: so a
//! machine whose clock is late finds the job done. If the machine dies in the middle, its lock expires
//! and another takes over.
//!
//! `keyward dev -- cargo run --example cron` starts three nodes for it.

use std::time::Duration;

use keyward_client::{Acquire, Client, Error};

/// The period of the job. A real one has hours; the lock is kept for nearly as long.
const PERIOD: Duration = Duration::from_secs(10);

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let endpoints = std::env::var("KEYWARD_ENDPOINTS");
    let endpoints = endpoints.as_deref().unwrap_or("http://127.0.0.1:7420");
    let client = Client::builder().endpoints(endpoints.split(',')).build()?;

    // An instance of its own: two runs on one machine are two owners.
    let run = format!("{}", std::process::id());
    let request = Acquire::new("cron/report", "machine-1").instance(run).duration(PERIOD / 2);
    let guard = match client.acquire(request).await {
        Ok(guard) => guard,
        Err(Error::Forbidden(_)) => {
            println!("another does the job of this period, or has done it");
            return Ok(());
        }
        Err(error) => return Err(error.into()),
    };
    match guard.guarded(report(guard.token().0)).await {
        Ok(()) => guard.expire_in(PERIOD * 9 / 10).await?,
        Err(reason) => println!("the lock is lost, nothing more is done: {}", reason.describe()),
    }
    Ok(())
}

/// Does the work. The token goes along with every access to the guarded resource.
async fn report(token: u64) {
    println!("the report is written under token {token}");
    tokio::time::sleep(Duration::from_secs(1)).await;
}
