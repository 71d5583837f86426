"""Model catalog, memory estimates, downloads and loading."""
