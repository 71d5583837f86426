"""A machine that does to a whole service whatever may happen to it, and then looks whether the promise was kept."""
