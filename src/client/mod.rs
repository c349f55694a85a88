//! Clients that report their connections.
