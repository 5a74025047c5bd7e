//! Decoding packets and updating their flows allocates nothing once everything is warm.

mod steady;

use probe::flow::Profile;

#[test]
fn a_warm_worker_allocates_nothing() {
    allocates_nothing(Profile::Standard);
}

#[test]
fn a_warm_worker_allocates_nothing_for_features() {
    allocates_nothing(Profile::Full);
}

fn allocates_nothing(profile: Profile) {
    let metered = steady::meter(profile);
    assert!(metered.warm_up.count_total > 0, "the counter counts");
    assert_eq!((metered.steady_packets, metered.steady.count_total), (1600, 0));
}
