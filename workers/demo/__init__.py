"""The main job on a live stack, told while it runs."""
