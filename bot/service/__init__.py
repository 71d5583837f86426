"""The composition root, which builds, runs and drains the service; and the retention job."""
