"""PBFT as a pure state machine: events in, effects out; it orders bytes that it never reads."""
