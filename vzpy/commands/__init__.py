"""One file a tool or vzctl action: options, one library call, events turned into text, exit code."""
