"""Named statements, one file each, values bound by name."""
