"""What hooks, models and the command-line tools share."""
