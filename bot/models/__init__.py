"""Models: which there are, whether one fits this machine, how it gets onto this disk and from there into memory."""
