"""What the benchmarks measure, how, and beside what."""
