"""The stories: each operation from beginning to end, in the order it happens."""
