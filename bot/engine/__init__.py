"""Runs the model in a child process; has the service's client side and the child's server side."""
