//! Tests of the whole, through public doors alone: one binary, one module for each door.

mod cli;
