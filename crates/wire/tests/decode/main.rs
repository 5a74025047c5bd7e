//! Decoding of frames built by hand.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::panic,
    missing_docs,
    reason = "tests stop at the first surprise"
)]

mod frames;
mod network;
mod properties;
mod tunnels;
