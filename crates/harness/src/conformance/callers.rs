//! Requests that wait beside the script, and callers that go away while theirs do.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;

use keyward_core::clock::{Clock as _, SystemClock};
use keyward_core::error::Error;
use keyward_core::service::LockService as _;
use keyward_core::types::{LEAVE_AFTER, LockOptions, LockRequest, LockResponse, ReadOptions};

use super::Bootstrap;
use super::runner::{HandleName, Line, Runner};

/// The time between two looks at the queue that a request is on its way to, and the number of
/// looks: five seconds, as long as any other request may take.
const LOOK_EVERY: Duration = Duration::from_millis(5);
const LOOKS: u32 = 1000;

/// The same for a place that is to be left: seldom enough that many scripts may look.
const LOOK_FOR_LEAVE_EVERY: Duration = Duration::from_millis(50);
const LOOKS_FOR_LEAVE: u32 = 100;

/// The longest real time until a call is answered that a script asks about. The script has done by
/// then what ends the wait.
const LONGEST_ANSWER: Duration = Duration::from_secs(5);

/// A signee and its instance.
type Owner = (String, Option<String>);

/// A lock request that waits beside the script.
pub(crate) struct Call {
    pub(super) answer: JoinHandle<Result<LockResponse, Error>>,
    table: String,
    signature: String,
    owner: Owner,
}

/// A request whose caller went away while it waited.
pub(crate) struct Gone {
    table: String,
    signature: String,
    owner: Owner,
    /// The time at which the caller had gone.
    since: Duration,
}

impl<B: Bootstrap> Runner<B> {
    /// Begins a lock request that waits beside the script, and goes on when its place is there or
    /// its answer.
    pub(super) fn call(
        &mut self,
        handle: HandleName,
        name: String,
        request: LockRequest,
        options: LockOptions,
    ) -> Line {
        let (service, table) = self.at(handle, options.table.as_ref())?;
        self.facts.ask(options.request_id);
        let (signature, signee) = (request.signature.clone(), request.signee.clone());
        let instance = options.instance.clone();
        let asking = Arc::clone(&service);
        let answer = self.runtime.spawn(async move { asking.lock(request, options).await });
        self.tables.insert(table.clone());
        let owner = (signee.clone(), instance.clone());
        let call = Call { answer, table: table.clone(), signature: signature.clone(), owner };
        if self.calls.contains_key(&name) {
            return Err(format!("the call {name:?} was not answered yet").into());
        }
        let call = self.calls.entry(name).or_insert(call);
        let seen = ReadOptions { table: Some(table), ..ReadOptions::default() };
        for _ in 0..LOOKS {
            if call.answer.is_finished() {
                return Ok(String::new());
            }
            let check = service.check(signature.clone(), seen.clone());
            if let Ok(response) = self.runtime.block_on(check)
                && let Some(place) = response.record.places.iter().find(|place| {
                    place.signee == signee && (instance.is_none() || place.instance == instance)
                })
            {
                self.facts.placed(&signature, &signee, place.place);
                return Ok(String::new());
            }
            self.runtime.block_on(tokio::time::sleep(LOOK_EVERY));
        }
        Err("a request that waits has neither a place nor an answer".into())
    }

    /// The answer to a call. It was decided at any time since, so it is not held against the
    /// answers before it.
    pub(super) fn answer(&mut self, name: &str) -> Line {
        let call = self.calls.remove(name).ok_or_else(|| format!("no call {name:?} waits"))?;
        let Call { mut answer, table, signature, .. } = call;
        let answered = self.runtime.block_on(tokio::time::timeout(LONGEST_ANSWER, &mut answer));
        let Ok(answered) = answered else {
            answer.abort();
            // Until it lets the handle go.
            let _ = self.runtime.block_on(answer);
            return Err(format!("the call {name:?} is not answered").into());
        };
        match answered? {
            Ok(response) => Ok(self.lock_line(&response, &table, &signature)),
            Err(error) => self.refused(error, &table, &signature),
        }
    }

    /// Drops the request of a call, as a caller does that dies: its connection closes.
    pub(super) fn hang_up(&mut self, name: String) -> Line {
        let call = self.calls.remove(&name).ok_or_else(|| format!("no call {name:?} waits"))?;
        let Call { answer, table, signature, owner } = call;
        // Before the caller goes, so that the service has at least as long as is measured.
        let since = SystemClock.boottime();
        answer.abort();
        if self.runtime.block_on(answer).is_ok() {
            return Err(format!("the call {name:?} was answered already").into());
        }
        self.gone.insert(name, Gone { table, signature, owner, since });
        Ok(String::new())
    }

    /// Waits until the owner of a call that was dropped has neither a place nor a grant.
    pub(super) fn await_leave(&mut self, handle: HandleName, name: &str) -> Line {
        let gone = self.gone.remove(name).ok_or_else(|| format!("no call {name:?} was dropped"))?;
        let Gone { table, signature, owner: (signee, instance), since } = gone;
        let (service, _) = self.at(handle, Some(&table))?;
        let options = ReadOptions { table: Some(table), ..ReadOptions::default() };
        let is_owner = |of: &str, run: &Option<String>| of == signee && *run == instance;
        for _ in 0..LOOKS_FOR_LEAVE {
            let check = service.check(signature.clone(), options.clone());
            let stands = match self.runtime.block_on(check) {
                Ok(response) => {
                    let (holders, places) = (&response.record.holders, &response.record.places);
                    holders.iter().any(|holder| is_owner(&holder.signee, &holder.instance))
                        || places.iter().any(|place| is_owner(&place.signee, &place.instance))
                }
                Err(Error::NotFound { .. }) => false,
                Err(error) => return Err(error.into()),
            };
            if !stands {
                let after = SystemClock.boottime().saturating_sub(since);
                let is_early = after < LEAVE_AFTER;
                return Ok(String::from(if is_early { "left too early" } else { "left" }));
            }
            self.runtime.block_on(tokio::time::sleep(LOOK_FOR_LEAVE_EVERY));
        }
        Ok(String::from("stands"))
    }
}
