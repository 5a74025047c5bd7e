//! How many requests may be in flight at a time.

/// So many successes in a row raise the ceiling by one again.
const RAISED_AFTER: u32 = 32;

/// One after trouble, and one more with each success, up to a ceiling. Requests that share a slow line may take so long
/// together that each of them fails, and would again: such trouble halves the ceiling, which rises again slowly.
#[derive(Clone, Debug)]
pub(super) struct Window {
    now: usize,
    ceiling: usize,
    most: usize,
    /// Since the last trouble, or since the ceiling was raised.
    successes: u32,
}

impl Window {
    /// At most `most`, and at least one.
    pub(super) fn new(most: usize) -> Self {
        let most = most.max(1);
        Self {
            now: most,
            ceiling: most,
            most,
            successes: 0,
        }
    }

    /// How many requests there may be.
    pub(super) fn size(&self) -> usize {
        self.now
    }

    /// A request was answered as it should be.
    pub(super) fn succeeded(&mut self) {
        self.successes += 1;
        if self.successes >= RAISED_AFTER {
            self.successes = 0;
            self.ceiling = (self.ceiling + 1).min(self.most);
        }
        self.now = (self.now + 1).min(self.ceiling);
    }

    /// A request was not; `is_slow` if fewer at a time may do better.
    pub(super) fn troubled(&mut self, is_slow: bool) {
        self.now = 1;
        self.successes = 0;
        if is_slow {
            self.ceiling = (self.ceiling / 2).max(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sizes_after(window: &mut Window, successes: usize) -> Vec<usize> {
        let mut next = || {
            window.succeeded();
            window.size()
        };
        (0..successes).map(|_| next()).collect()
    }

    #[test]
    fn after_trouble_each_success_lets_one_more_follow() {
        let mut window = Window::new(4);
        assert_eq!(window.size(), 4);
        window.troubled(false);
        assert_eq!(window.size(), 1);
        assert_eq!(sizes_after(&mut window, 5), [2, 3, 4, 4, 4]);
    }

    #[test]
    fn a_line_that_does_not_bear_so_many_is_not_asked_to_soon_again() {
        let mut window = Window::new(4);
        window.troubled(true);
        assert_eq!(sizes_after(&mut window, 30), [2; 30]);
        assert_eq!(sizes_after(&mut window, 3), [2, 3, 3], "a try with one more");
        for _ in 0..5 {
            window.troubled(true);
        }
        assert_eq!(sizes_after(&mut window, 31), [1; 31], "one is always allowed");
        assert_eq!(sizes_after(&mut window, 3 * 32).last(), Some(&4));
        assert_eq!(Window::new(0).size(), 1);
    }
}
