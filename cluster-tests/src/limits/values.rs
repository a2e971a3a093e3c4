//! The values of requests to which limits apply.

use std::time::Duration;

use keyward::limits::{
    AFTER, CAUSE, DURATION, INSTANCE, LEVEL, LOCK_DELAY, Limit, MAX_HOLD, PAGE, PERMITS, PREFIX,
    REQUEST_NUMBER, SESSION_WAIT, SIGNATURE, SIGNEE, TABLE, TIME_TO_LIVE, TIMEOUT, TOKEN, TRACE_ID,
    TTL, WAIT,
};
use keyward::lock::{
    Command, Keep, LeaveCommand, LimitCommand, LockCommand, Operation, Query, SessionCommand,
    Subject, TableCommand, UnlockCommand,
};
use keyward::types::{CallOptions, ListRequest, SessionLocksRequest, TablesRequest};

/// The values of a command to which limits apply, with the limit of each. Absent values are left
/// out.
pub fn of_command(command: &Command) -> Vec<(Limit, i128)> {
    let Command { request_id, principal: _, cause, operation } = command;
    let mut values = Vec::new();
    match operation {
        Operation::Lock(command) => {
            let LockCommand { table, signature, signee, instance, level, .. } = &**command;
            let LockCommand { force: _, duration_ms, time_to_live, token, .. } = &**command;
            values.extend(of_owner(table, signature, signee, instance.as_deref()));
            values.extend(level.map(|level| (LEVEL, i128::from(level))));
            values.extend(of_lengths(*duration_ms, *time_to_live));
            values.extend(token.map(|token| (TOKEN, i128::from(token.0))));
            let LockCommand { limit, wait_ms, session, lock_delay_ms, .. } = &**command;
            values.extend(limit.map(|limit| (PERMITS, i128::from(limit))));
            let wait = if session.is_some() { SESSION_WAIT } else { WAIT };
            values.push((wait, i128::from(*wait_ms)));
            values.extend(lock_delay_ms.map(|ms| (LOCK_DELAY, i128::from(ms))));
        }
        Operation::Unlock(command) => {
            let UnlockCommand { table, signature, signee, instance, token, .. } = &**command;
            values.extend(of_owner(table, signature, signee, instance.as_deref()));
            values.extend(token.map(|token| (TOKEN, i128::from(token.0))));
        }
        Operation::ConfigureTable(command) => {
            let TableCommand { table, duration_ms, time_to_live, .. } = &**command;
            let TableCommand { lock_delay_ms, max_hold_ms, .. } = &**command;
            values.push(bytes(TABLE, table));
            values.extend(lock_delay_ms.map(|ms| (LOCK_DELAY, i128::from(ms))));
            values.extend(max_hold_ms.map(|ms| (MAX_HOLD, i128::from(ms))));
            values.extend(of_lengths(*duration_ms, *time_to_live));
        }
        Operation::DeleteTable { table } => values.push(bytes(TABLE, table)),
        Operation::OpenSession(command) => {
            let SessionCommand { id: _, ttl_ms, signee, instance } = &**command;
            values.extend([(TTL, i128::from(*ttl_ms)), bytes(SIGNEE, signee)]);
            values.extend(instance.as_deref().map(|instance| bytes(INSTANCE, instance)));
        }
        Operation::Leave(command) => {
            let LeaveCommand { table, signature, .. } = &**command;
            values.extend([bytes(TABLE, table), bytes(SIGNATURE, signature)]);
        }
        Operation::SetLimit(command) => {
            let LimitCommand { table, signature, limit } = &**command;
            values.extend([bytes(TABLE, table), bytes(SIGNATURE, signature)]);
            values.push((PERMITS, i128::from(*limit)));
        }
        Operation::KeepAlive(_)
        | Operation::Access(_)
        | Operation::CloseSession(_)
        | Operation::Advance
        | Operation::RaiseFeatureLevel(_) => {}
    }
    values.extend(request_id.map(|id| (REQUEST_NUMBER, i128::from(id.seq))));
    values.extend(cause.as_deref().map(|cause| bytes(CAUSE, cause)));
    values
}

/// The same as [`of_command`], for a query.
pub fn of_query(query: &Query) -> Vec<(Limit, i128)> {
    let page = |prefix: &str, after: Option<&String>, limit: u32| {
        let after = after.map(|after| bytes(AFTER, after));
        [bytes(PREFIX, prefix), (PAGE, i128::from(limit))].into_iter().chain(after)
    };
    match &query.subject {
        Subject::Lock { table, signature, .. } => {
            vec![bytes(TABLE, table), bytes(SIGNATURE, signature)]
        }
        Subject::Verify { table, signature, token } => {
            let token = (TOKEN, i128::from(token.0));
            vec![bytes(TABLE, table), bytes(SIGNATURE, signature), token]
        }
        Subject::SessionLocks(SessionLocksRequest { limit, .. }) => {
            vec![(PAGE, i128::from(*limit))]
        }
        Subject::Deadlocks | Subject::Access(_) => Vec::new(),
        Subject::Locks { table, page: ListRequest { prefix, after, limit, state: _ } } => {
            let page = page(prefix, after.as_ref(), *limit);
            page.chain([bytes(TABLE, table)]).collect()
        }
        Subject::Tables(TablesRequest { after, limit }) => {
            let page = page("", after.as_ref(), *limit);
            page.filter(|(limit, _)| *limit != PREFIX).collect()
        }
    }
}

/// The same as [`of_command`], for the options of a call that no command holds.
pub fn of_call(call: &CallOptions) -> Vec<(Limit, i128)> {
    let CallOptions { timeout, trace_id, principal: _, cause: _ } = call;
    let mut values = Vec::new();
    values.extend(timeout.map(|timeout| ms(TIMEOUT, timeout)));
    values.extend(trace_id.as_deref().map(|trace| bytes(TRACE_ID, trace)));
    values
}

fn of_owner(
    table: &str,
    signature: &str,
    signee: &str,
    instance: Option<&str>,
) -> impl Iterator<Item = (Limit, i128)> {
    let instance = instance.map(|instance| bytes(INSTANCE, instance));
    [bytes(TABLE, table), bytes(SIGNATURE, signature), bytes(SIGNEE, signee)]
        .into_iter()
        .chain(instance)
}

fn of_lengths(
    duration_ms: Option<u64>,
    time_to_live: Option<Keep>,
) -> impl Iterator<Item = (Limit, i128)> {
    let duration = duration_ms.map(|ms| (DURATION, i128::from(ms)));
    let time_to_live = match time_to_live {
        Some(Keep::Ms(ms)) => Some((TIME_TO_LIVE, i128::from(ms))),
        Some(Keep::ForEver) | None => None,
    };
    duration.into_iter().chain(time_to_live)
}

fn bytes(limit: Limit, text: &str) -> (Limit, i128) {
    (limit, i128::try_from(text.len()).unwrap_or(i128::MAX))
}

fn ms(limit: Limit, time: Duration) -> (Limit, i128) {
    (limit, i128::try_from(time.as_millis()).unwrap_or(i128::MAX))
}

#[cfg(test)]
mod tests {
    use keyward::limits::{ALL, BATCH, Proof};
    use keyward::types::{
        LockOptions, LockRequest, Mode, ReadOptions, RequestId, SessionId, SessionOptions,
        SessionRequest, TableDefaults, TableOptions, Token, UnlockOptions, UnlockRequest,
    };

    use super::*;

    #[test]
    fn every_value_of_a_request_has_a_limit_of_the_list() {
        let call = CallOptions {
            timeout: Some(Duration::from_secs(1)),
            trace_id: Some("t".to_owned()),
            principal: None,
            cause: Some("c".to_owned()),
        };
        let lock = LockRequest { signature: "a".into(), signee: "b".into(), level: Some(-3) };
        let options = LockOptions {
            table: Some("t".to_owned()),
            force: true,
            duration: Some(Duration::from_millis(7)),
            time_to_live: Some(Duration::from_millis(8).into()),
            token: Some(Token(9)),
            instance: Some("ii".to_owned()),
            request_id: Some(RequestId { lane: 1, seq: 4 }),
            call: call.clone(),
            ..LockOptions::default()
        };
        let mut all = of_command(&Command::lock(lock, options).unwrap());
        let values: Vec<_> = all.iter().map(|(limit, value)| (limit.name, *value)).collect();
        assert_eq!(
            values,
            [
                ("table", 1),
                ("signature", 1),
                ("signee", 1),
                ("instance", 2),
                ("level", -3),
                ("duration", 7),
                ("time_to_live", 8),
                ("token", 9),
                ("wait", 0),
                ("request_number", 4),
                ("cause", 1),
            ]
        );
        let unlock = UnlockRequest { signature: "a".into(), signee: "b".into() };
        let options = UnlockOptions { token: Some(Token(9)), ..UnlockOptions::default() };
        let values = of_command(&Command::unlock(unlock, options));
        let names: Vec<_> = values.iter().map(|(limit, _)| limit.name).collect();
        assert_eq!(names, ["table", "signature", "signee", "token"]);
        let page =
            ListRequest { prefix: "p".into(), after: Some("qq".into()), limit: 5, state: None };
        let read = ReadOptions { table: Some("t".to_owned()), ..ReadOptions::default() };
        all.extend(values);
        all.extend(of_query(&Query::list(page, &read)));
        all.extend(of_query(&Query::check("a".to_owned(), &read)));
        all.extend(of_query(&Query::tables(TablesRequest::default(), &read)));
        all.extend(of_call(&call));
        let options = LockOptions {
            mode: Some(Mode::Permits),
            limit: Some(3),
            session: Some(SessionId(1)),
            wait: Some(Duration::from_secs(1)),
            lock_delay: Some(Duration::from_secs(1)),
            ..LockOptions::default()
        };
        let lock = LockRequest { signature: "a".into(), signee: "b".into(), level: None };
        all.extend(of_command(&Command::lock(lock, options).unwrap()));
        let defaults =
            TableDefaults { max_hold: Some(Duration::from_secs(1)), ..TableDefaults::default() };
        let settings = Command::configure_table(defaults, TableOptions::default()).unwrap();
        all.extend(of_command(&settings));
        let session = SessionRequest { signee: "b".into(), ttl: Duration::from_secs(1) };
        let opened = Command::open_session(session, SessionOptions::default()).unwrap();
        all.extend(of_command(&opened));
        assert!(all.iter().all(|(limit, _)| ALL.contains(limit)), "{all:?}");
        let asked = ALL.iter().filter(|limit| limit.proof == Proof::Asked && **limit != BATCH);
        for limit in asked {
            assert!(all.iter().any(|(known, _)| known == limit), "nothing measures {limit:?}");
        }
    }
}
