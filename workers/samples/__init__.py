"""The sample fleet: real agents to try things with, and the work they do."""
