"""One module per schema migration, named by its number. Released migrations never change."""
