//! Ports for servers that cannot let the kernel choose one.

use std::net::TcpListener;

use rand::Rng;

/// Below the range from which the kernel takes ports for outgoing connections (32768 and up), so
/// that none of the clients' own connections takes the port of a node that is being restarted.
const RANGE: std::ops::Range<u16> = 12_000..32_000;

/// Returns `count` different ports of the loopback interface that were free a moment ago.
///
/// # Panics
/// If there are not enough.
pub(super) fn reserve(count: usize) -> Vec<u16> {
    let mut random = rand::rng();
    // All are kept bound until enough are found; a few thousand attempts fail only if nearly every
    // port is taken.
    let mut bound: Vec<(u16, TcpListener)> = Vec::new();
    for _ in 0..10_000 {
        if bound.len() == count {
            break;
        }
        let port = random.random_range(RANGE);
        if let Ok(listener) = TcpListener::bind(("127.0.0.1", port)) {
            bound.push((port, listener));
        }
    }
    assert_eq!(bound.len(), count, "there are no free ports in {RANGE:?}");
    bound.into_iter().map(|(port, _)| port).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_different_and_can_be_bound() {
        let ports = reserve(30);
        let bound: Vec<_> = ports
            .iter()
            .map(|&port| TcpListener::bind(("127.0.0.1", port)).expect("it is free"))
            .collect();
        assert_eq!(bound.len(), 30);
    }
}
