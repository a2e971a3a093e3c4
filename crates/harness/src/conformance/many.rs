//! Requests that a script asks many times over, in batches, and the answers in short.
//!
//! A script says how many requests there are, and not each of them. Equal answers in a row are one
//! line; a position or a slot that grows by one from answer to answer counts as equal, so that the
//! line stands for every one of them.

use keyward_core::limits::MAX_BATCH;
use keyward_core::service::LockService as _;
use keyward_core::types::{BatchAnswer, BatchRequest, LockStatus};

use super::Bootstrap;
use super::facts::Granted;
use super::print;
use super::runner::{HandleName, Line, Runner};

/// The part of a name that stands for the number of the request.
const NUMBER: &str = "{n}";

impl<B: Bootstrap> Runner<B> {
    /// Asks a request this many times, and shows the answers in short.
    pub(super) fn many(&mut self, handle: HandleName, one: &BatchRequest, times: u32) -> Line {
        let own_table = match one {
            BatchRequest::Lock(_, options) => options.table.as_ref(),
            BatchRequest::Unlock(_, options) => options.table.as_ref(),
        };
        let (service, table) = self.at(handle, own_table)?;
        self.tables.insert(table.clone());
        let mut runs = Runs::default();
        let numbers: Vec<u32> = (1..=times).collect();
        for part in numbers.chunks(MAX_BATCH) {
            let requests: Vec<BatchRequest> = part.iter().map(|n| numbered(one, *n)).collect();
            let signatures: Vec<String> = requests.iter().map(signature).collect();
            let asked_at = self.pace.now();
            let answers = self.runtime.block_on(service.batch(requests));
            for (answer, signature) in answers.into_iter().zip(&signatures) {
                let (kind, number) = match answer {
                    Ok(BatchAnswer::Lock(response)) => {
                        self.decided_by_write(false, response.decided_at)?;
                        self.pace.granted(&table, signature, asked_at);
                        if let Some(grant) = response.grant() {
                            let kind = Granted::of(grant, response.created());
                            self.facts.granted(&table, signature, grant.token, kind)?;
                        }
                        short(&response.status)
                    }
                    Ok(BatchAnswer::Unlock(response)) => {
                        self.decided_by_write(false, response.decided_at)?;
                        let names = &mut self.facts.names(&table);
                        (print::unlock(&response.status, signature, names), None)
                    }
                    Err(error) => (self.refused(error, &table, signature)?, None),
                };
                runs.add(kind, number);
            }
        }
        Ok(runs.lines())
    }
}

/// The request with this number in its names.
fn numbered(one: &BatchRequest, number: u32) -> BatchRequest {
    let named = |name: &str| name.replace(NUMBER, &format!("{number:05}"));
    let mut request = one.clone();
    match &mut request {
        BatchRequest::Lock(request, _) => {
            request.signature = named(&request.signature);
            request.signee = named(&request.signee);
        }
        BatchRequest::Unlock(request, _) => {
            request.signature = named(&request.signature);
            request.signee = named(&request.signee);
        }
    }
    request
}

fn signature(request: &BatchRequest) -> String {
    match request {
        BatchRequest::Lock(request, _) => request.signature.clone(),
        BatchRequest::Unlock(request, _) => request.signature.clone(),
    }
}

/// An answer without what differs from one to the next, and its position or slot.
fn short(status: &LockStatus) -> (String, Option<u64>) {
    match status {
        LockStatus::Ok(grant) => ("ok".to_owned(), grant.slot.map(u64::from)),
        LockStatus::Renewed(grant) => ("renewed".to_owned(), grant.slot.map(u64::from)),
        LockStatus::Transferred { grant, .. } => {
            ("transferred".to_owned(), grant.slot.map(u64::from))
        }
        LockStatus::Waiting(waiting) => ("waiting".to_owned(), Some(waiting.position)),
        LockStatus::Failed(forbidden) => {
            (format!("failed reason={}", forbidden.reason.word()), None)
        }
    }
}

/// Answers, with equal ones in a row taken together.
#[derive(Default)]
struct Runs(Vec<Run>);

struct Run {
    kind: String,
    first: Option<u64>,
    times: u64,
}

impl Runs {
    fn add(&mut self, kind: String, number: Option<u64>) {
        if let Some(last) = self.0.last_mut()
            && last.kind == kind
            && number == last.first.map(|first| first + last.times)
        {
            last.times += 1;
        } else {
            self.0.push(Run { kind, first: number, times: 1 });
        }
    }

    fn lines(&self) -> String {
        let line = |Run { kind, first, times }: &Run| match first {
            Some(first) => format!("{times} times {kind}, number {first} to {}", first + times - 1),
            None => format!("{times} times {kind}"),
        };
        self.0.iter().map(line).collect::<Vec<_>>().join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_equal_answers_and_numbers_without_a_gap_are_taken_together() {
        let mut runs = Runs::default();
        for number in [1, 2, 4, 5] {
            runs.add("waiting".to_owned(), Some(number));
        }
        runs.add("ok".to_owned(), None);
        runs.add("ok".to_owned(), None);
        let lines = "2 times waiting, number 1 to 2\n2 times waiting, number 4 to 5\n2 times ok";
        assert_eq!(runs.lines(), lines);
        assert_eq!(Runs::default().lines(), "");
    }
}
