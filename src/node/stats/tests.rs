//! Counters and estimates of one node, by cases.
