//! What holds for every protocol of the table, and the tools with which each protocol's tests feed a session.
