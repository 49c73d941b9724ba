"""A virtual machine in which the tests have every right and every kernel part they need."""
