"""A Hypothesis state machine that injects faults into a whole service in any order and checks its guarantees."""
