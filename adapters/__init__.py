"""One module or package a platform: platform events in, replies out."""
