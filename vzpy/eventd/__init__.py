"""The node daemon, vzeventd: parent of every init, keeper of consoles (DESIGN 3)."""
