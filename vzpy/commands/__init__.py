"""One file a tool or vzctl action: options, one library call, events as text, exit code."""
