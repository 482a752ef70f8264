"""What the hooks and the command-line tools share."""
