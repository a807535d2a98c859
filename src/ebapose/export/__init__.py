"""Model files for other runtimes, each verified to give the same poses."""
