"""One script per verb; the header of each names every key and argument."""
