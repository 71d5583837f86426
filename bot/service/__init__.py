"""The composition root: makes the parts, runs them, drains them; and the retention job."""
