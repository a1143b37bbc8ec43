"""The fault harness: seeded schedules, real kills, hostile agents. See README.md."""
