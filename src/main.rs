//! The `keyward` program: wires everything, decides nothing.

fn main() {}
