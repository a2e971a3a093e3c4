//! Tests of the built program as real processes.
