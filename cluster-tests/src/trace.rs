//! Reads the output of `strace -f -ttt -T`: syncs, and the data received and sent on sockets.

use std::collections::HashMap;

/// An event of a process. Times are in seconds, on the clock of `strace`.
#[derive(Clone, PartialEq, Debug)]
pub enum Event {
    /// A file's content was made durable, as the log's is.
    Synced {
        /// When the call began.
        begin: f64,
        /// When it returned.
        end: f64,
    },
    /// Bytes were read.
    Received {
        /// The file descriptor.
        descriptor: u64,
        /// When the call returned.
        end: f64,
        /// Their beginning.
        text: String,
    },
    /// Bytes were written.
    Sent {
        /// The file descriptor.
        descriptor: u64,
        /// When the call began.
        begin: f64,
        /// Their beginning.
        text: String,
    },
}

/// The events of a trace, in its order. Lines of other kinds are skipped.
pub fn parse(trace: &str) -> Vec<Event> {
    let mut unfinished: HashMap<&str, (f64, &str)> = HashMap::new();
    let mut events = Vec::new();
    for line in trace.lines() {
        let Some((thread, rest)) = line.split_once(' ') else { continue };
        let Some((time, call)) = rest.trim_start().split_once(' ') else { continue };
        let Ok(time) = time.parse::<f64>() else { continue };
        if let Some(start) = call.strip_suffix("<unfinished ...>") {
            unfinished.insert(thread, (time, start));
        } else if let Some(resumed) = call.strip_prefix("<... ") {
            let Some((since, start)) = unfinished.remove(thread) else { continue };
            let rest = resumed.split_once("resumed>").map_or("", |(_, rest)| rest);
            events.extend(event(&format!("{start}{rest}"), since, time));
        } else {
            events.extend(event(call, time, time + duration(call)));
        }
    }
    events
}

/// The `<seconds>` at the end of a line.
fn duration(call: &str) -> f64 {
    call.rsplit_once('<')
        .and_then(|(_, rest)| rest.strip_suffix('>'))
        .and_then(|seconds| seconds.parse().ok())
        .unwrap_or(0.0)
}

fn event(call: &str, begin: f64, end: f64) -> Option<Event> {
    let (name, arguments) = call.split_once('(')?;
    let descriptor = arguments.split([',', ')']).next()?.trim().parse().ok()?;
    let text = || arguments.split_once('"').map_or("", |(_, text)| text).to_owned();
    match name {
        "fdatasync" => Some(Event::Synced { begin, end }),
        "recvfrom" | "read" => Some(Event::Received { descriptor, end, text: text() }),
        "sendto" | "write" | "writev" => Some(Event::Sent { descriptor, begin, text: text() }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_read_whether_or_not_another_thread_came_between() {
        let trace = "\
7 100.000100 recvfrom(12, \"POST /v1/lock HTTP/1.1\\r\\n\"..., 8192, 0, NULL, NULL) = 180 <0.000010>
8 100.000200 fdatasync(9 <unfinished ...>
7 100.000300 read(4, \"\", 8) = -1 EAGAIN (Resource temporarily unavailable) <0.000002>
8 100.000400 <... fdatasync resumed>)     = 0 <0.000200>
7 100.000500 writev(12, [{iov_base=\"HTTP/1.1 200 OK\\r\\n\"..., iov_len=90}], 1) = 90 <0.000020>
7 100.000600 +++ exited with 0 +++
";
        let events = parse(trace);
        assert_eq!(events.len(), 4, "{events:?}");
        assert!(matches!(&events[0], Event::Received { descriptor: 12, text, .. }
                if text.starts_with("POST /v1/lock")));
        assert_eq!(events[2], Event::Synced { begin: 100.0002, end: 100.0004 });
        assert!(matches!(&events[3], Event::Sent { descriptor: 12, text, .. }
                if text.starts_with("HTTP/1.1 200")));
    }
}
