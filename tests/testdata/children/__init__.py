"""Stand-ins for the validator's child, each ill-behaved in one way: what a hostile model could make of the real one."""
