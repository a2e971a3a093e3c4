//! The feature levels of the members' programs, and the level that the cluster may have.
//!
//! A command that older programs do not know is proposed only when the replicated state allows its
//! level, and the state allows it only once every member's program supports it. Each answer of a
//! member announces its level. The leader raises the level of the state when all members, learners
//! too, have recently announced a higher one. It is never lowered: a member that is replaced by an
//! older program afterwards refuses to start.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock::Deadline;

/// The time for which an announcement counts. A member answers ten heartbeats a second; one that was
/// not heard of for longer may have been replaced by an older program.
const RECENT: Duration = Duration::from_secs(5);

/// The latest announcement of each other member, and until when it counts.
#[derive(Default)]
pub(crate) struct Levels(Mutex<BTreeMap<u64, (u32, Deadline)>>);

impl Levels {
    /// Notes that a member has announced this level just now.
    pub(crate) fn note(&self, member: u64, level: u32) {
        self.lock().insert(member, (level, Deadline::after(RECENT)));
    }

    /// The lowest level of these members, of which `id` has the level `own`; `None` while one of
    /// them has not announced its level recently.
    pub(crate) fn common(
        &self,
        members: impl IntoIterator<Item = u64>,
        (id, own): (u64, u32),
    ) -> Option<u32> {
        let announced = self.lock();
        let mut common = own;
        for member in members.into_iter().filter(|member| *member != id) {
            let (level, until) = announced.get(&member)?;
            if until.remaining().is_zero() {
                return None;
            }
            common = common.min(*level);
        }
        Some(common)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, (u32, Deadline)>> {
        // Only numbers are copied while it is held.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_common_level_is_the_lowest_and_known_only_when_all_have_announced_theirs_recently()
    {
        let levels = Levels::default();
        let common = || levels.common([1, 2, 3], (1, 4));
        levels.note(2, 3);
        assert_eq!(common(), None, "node 3 was not heard of");
        tokio::time::advance(Duration::from_secs(2)).await;
        levels.note(3, 2);
        assert_eq!(common(), Some(2));
        levels.note(3, 5);
        assert_eq!(common(), Some(3), "a newer program of node 3");
        tokio::time::advance(Duration::from_secs(4)).await;
        assert_eq!(common(), None, "node 2 is silent");
        assert_eq!(levels.common([1], (1, 4)), Some(4), "a member alone");
    }
}
