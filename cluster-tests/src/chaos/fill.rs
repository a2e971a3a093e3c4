//! A table of many locks with long names, filled while nodes die: logs of many segments, snapshots of
//! hundreds of megabytes, entries as large as they come.
//!
//! These locks are in no history, which would be as large as they are. The tokens of each
//! acknowledged batch are remembered, and read back at the end.

use std::time::Duration;

use keyward::client::Client;
use keyward::limits::{BATCH_BYTES, SIGNATURE};
use keyward::service::LockService;
use keyward::types::{
    BatchRequest, CallOptions, ListRequest, LockOptions, LockRequest, ReadOptions, TableOptions,
    Token,
};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::wait::Stopwatch;

/// The table.
const TABLE: &str = "fill";

/// The timeout of a batch, retries included: an election, and a start with all the data.
const CALL: Duration = Duration::from_secs(10);

/// The timeout for reading everything back at the end.
const READ: Duration = Duration::from_secs(120);

/// The timeout, after a run, for the locks it has to have: a busy machine has acquired fewer by then.
const MORE: Duration = Duration::from_secs(180);

/// Longer than any run.
const DURATION: Duration = Duration::from_secs(24 * 60 * 60);

/// A table being filled. Dropping it stops it.
#[derive(Debug)]
pub(super) struct Fill {
    stop: watch::Sender<bool>,
    taken: watch::Receiver<u64>,
    task: JoinHandle<Vec<Option<Token>>>,
}

impl Fill {
    /// Begins to acquire this many locks.
    pub(super) fn start(client: Client, locks: u64) -> Self {
        let (stop, stopped) = watch::channel(false);
        let (take, taken) = watch::channel(0);
        Self { stop, taken, task: tokio::spawn(run(client, locks, stopped, take)) }
    }

    /// Waits for at least this many locks, stops, reads back the acknowledged ones and deletes the
    /// table, so that the rest can be read at one index. Returns the number of acknowledged locks, and
    /// what is wrong.
    pub(super) async fn finish(mut self, client: &Client, least: u64) -> (u64, Vec<String>) {
        let enough = self.taken.wait_for(|taken| *taken >= least);
        // In vain is the judge's to tell.
        let _ = tokio::time::timeout(MORE, enough).await;
        self.stop.send_replace(true);
        let Ok(acknowledged) = self.task.await else {
            return (0, vec!["the task that fills a table ended early".to_owned()]);
        };
        let count = acknowledged.iter().flatten().count() as u64;
        let mut wrong = match read_back(client, acknowledged).await {
            Ok(0) => Vec::new(),
            Ok(lost) => {
                vec![format!("{lost} of {count} acknowledged locks of a large table are lost")]
            }
            Err(why) => vec![format!("the large table cannot be read: {why}")],
        };
        let call = CallOptions { timeout: Some(CALL), ..CallOptions::default() };
        let options = TableOptions { table: Some(TABLE.to_owned()), call, ..Default::default() };
        if let Err(error) = client.delete_table(options).await {
            wrong.push(format!("the large table cannot be deleted: {error}"));
        }
        (count, wrong)
    }
}

/// The name of a lock, in the order of the table.
fn signature(number: u64) -> String {
    let most = usize::try_from(SIGNATURE.largest).unwrap_or(1);
    let name = format!("{number:012}/");
    let rest = most - name.len();
    name + &"n".repeat(rest)
}

/// The number of these that fit into a body of the largest size.
fn together() -> u64 {
    // Each has two names of full length and some 130 bytes of JSON.
    u64::try_from(BATCH_BYTES.largest / (2 * SIGNATURE.largest + 130)).unwrap_or(1)
}

/// Takes the locks; gives the token of each that was acknowledged.
async fn run(
    client: Client,
    locks: u64,
    stopped: watch::Receiver<bool>,
    taken: watch::Sender<u64>,
) -> Vec<Option<Token>> {
    let signee = "f".repeat(usize::try_from(SIGNATURE.largest).unwrap_or(1));
    let mut tokens = Vec::new();
    let mut first = 0;
    while first < locks && !*stopped.borrow() {
        let end = locks.min(first + together());
        let batch = (first..end).map(|number| {
            let request =
                LockRequest { signature: signature(number), signee: signee.clone(), level: None };
            let options = LockOptions {
                table: Some(TABLE.to_owned()),
                duration: Some(DURATION),
                call: CallOptions { timeout: Some(CALL), ..CallOptions::default() },
                ..LockOptions::default()
            };
            BatchRequest::Lock(request, options)
        });
        for answer in client.batch(batch.collect()).await {
            let answer = answer.ok().and_then(keyward::types::BatchAnswer::lock);
            tokens.push(answer.and_then(|answer| answer.grant().map(|grant| grant.token)));
            let is_taken = tokens.last().is_some_and(Option::is_some);
            taken.send_modify(|taken| *taken += u64::from(is_taken));
        }
        first = end;
    }
    tokens
}

/// The number of acknowledged locks that are missing or have another token.
async fn read_back(client: &Client, acknowledged: Vec<Option<Token>>) -> Result<u64, String> {
    let watch = Stopwatch::start();
    let mut expected = (0..).zip(acknowledged).map(|(number, token)| (signature(number), token));
    let mut lost = 0;
    let mut after = None;
    loop {
        let request = ListRequest { after: after.clone(), limit: 1000, ..ListRequest::default() };
        let options = ReadOptions {
            table: Some(TABLE.to_owned()),
            call: CallOptions { timeout: Some(CALL), ..CallOptions::default() },
            ..ReadOptions::default()
        };
        let page = match client.list(request, options).await {
            Ok(page) => page,
            Err(error) if watch.elapsed() > READ => return Err(error.to_string()),
            Err(_) => continue,
        };
        for record in page.locks {
            // Both are in byte order: locks expected before this record are not in the table.
            for (name, token) in expected.by_ref() {
                if name == record.signature {
                    let found = record.holders.first().map(|holder| holder.token);
                    lost += u64::from(token.is_some() && token != found);
                    break;
                }
                lost += u64::from(token.is_some());
            }
        }
        after = page.next;
        if after.is_none() {
            return Ok(lost + expected.filter(|(_, token)| token.is_some()).count() as u64);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_of_full_length_and_in_order() {
        assert_eq!(signature(0).len(), 1024);
        assert!(signature(9) < signature(10));
        assert!(together() > 400, "{}", together());
    }
}
